"""The joint-embedding losses and heads of lightly."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkit import hookimpl

if TYPE_CHECKING:
    from sslkit.api import Head, Objective


@hookimpl
def sslkit_objectives() -> "Sequence[type[Objective]]":
    """Return lightly's losses on embeddings of views, and MoCo v3's."""
    from sslkit_lightly import clustering, contrastive, covariance, dense, distribution, similarity

    return [
        *(similarity.Byol, similarity.SimSiam, similarity.TiCo),
        *(contrastive.SimClr, contrastive.DirectClr, contrastive.Dcl, contrastive.Dclw, contrastive.Macl),
        *(contrastive.Hypersphere, contrastive.MoCo, contrastive.MoCoV3, contrastive.Nnclr),
        *(covariance.BarlowTwins, covariance.VicReg, covariance.WMse),
        *(covariance.FroSsl, covariance.EmpSsl, covariance.Mmcr),
        *(distribution.KoLeo, distribution.SigReg, distribution.LeJepa, distribution.VisReg),
        *(clustering.Dino, clustering.Swav, clustering.Msn, clustering.Pmsn),
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
