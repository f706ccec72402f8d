"""The joint-embedding losses and heads of lightly."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Head, Objective


@hookimpl
def sslkit_objectives() -> "Sequence[type[Objective]]":
    """Return every loss of lightly that works on embeddings of views."""
    from sslkit_lightly import alike, clusters, contrast, dense, spread

    return [
        *(alike.Byol, alike.SimSiam, alike.TiCo),
        *(contrast.SimClr, contrast.DirectClr, contrast.Dcl, contrast.Dclw, contrast.Macl, contrast.Hypersphere),
        *(contrast.MoCo, contrast.MoCoV3, contrast.Nnclr),
        *(spread.BarlowTwins, spread.VicReg, spread.WMse, spread.FroSsl, spread.EmpSsl, spread.Mmcr),
        *(spread.KoLeo, spread.SigReg, spread.LeJepa, spread.VisReg),
        *(clusters.Dino, clusters.Swav, clusters.Msn, clusters.Pmsn),
        *(dense.VicRegL, dense.DenseCl),
    ]


@hookimpl
def sslkit_heads() -> "Sequence[type[Head]]":
    """Return lightly's projectors and predictors."""
    from sslkit_lightly import heads, heads_special

    return [
        *(heads.SimClrHead, heads.MoCoHead, heads.BarlowTwinsHead, heads.VicRegHead, heads.TiCoHead, heads.SwavHead),
        *(heads.SimSiamHead, heads.SimSiamPredictor, heads.NnclrHead, heads.NnclrPredictor),
        *(heads.MmcrHead, heads.MsnHead, heads.LeJepaHead),
        *(heads_special.DinoHead, heads_special.DenseClHead, heads_special.VicRegLHead),
    ]
