"""A rehearsal on one GPU: tests, agreement with the CPU, speed, memory, an ablation and a learning run."""
