"""The paper's tables (ICLR 2025), as printed, and what each column is taken to be.

The authors published no evaluation code. Which program gave a column is inferred from names and
ranges, never told; `known` says what is known to differ or to be uncertain.
"""

from __future__ import annotations

from typing import NamedTuple

INFERRED = (
    "The paper has no evaluation code: definitions are inferred (DisCo for frame and Fréchet "
    "metrics, VBench, content-debiased FVD), and reference frame, frames per video, stride and "
    "number of clips are not stated. Our numbers can be compared with each other, with the "
    "paper's only as far as each column says."
)


class Column(NamedTuple):
    """A column: its title in the paper, our metric ("" if VBench itself has to measure it)."""

    title: str
    metric: str
    known: str


class Table(NamedTuple):
    """A table of the paper. rows: {row: numbers}; ours: which of our rows stand beside them."""

    about: str
    columns: tuple[Column, ...]
    rows: dict[str, tuple[float, ...]]
    variants: tuple[str, ...]  # of `config.control`, in the order of ours


_STILL = "rewards stillness"
_TF = Column("TF", "flickering", f"{_STILL}; native size")
_SC = Column("SC", "subject", _STILL)
_BC = Column("BC", "background", f"{_STILL}; the original computes in half precision on GPUs")
_MS = Column("MS", "motion_smoothness", "VBench's own network (CC BY-NC): --vbench")
_DD = Column("DD", "dynamic", "the printed values are no shares of 6 or 30 videos: never equal")
_IQ = Column("IQ", "imaging_quality", "VBench's own network (non-commercial): --vbench")
_FID = Column("FID-FVD", "fid_fvd", "6 videos: depends on their number and windows")
_FVD = Column("FVD", "fvd", "6 videos: depends on their number and windows; re-encoding moves it")
_CD = Column("CD-FVD", "cd_fvd", "the original draws random windows, 2048 of them")
_MP, _MM = "MusePose", "MimicMotion"

TABLES = {
    1: Table(
        "TikTok sequences 335 to 340",
        (_TF, _SC, _BC, _MS, _DD, _IQ, _FID, _FVD, _CD),
        {
            "MagicPose": (96.65, 95.12, 94.55, 98.29, 22.70, 63.87, 15.53, 1015.04, 693.24),
            "Moore-AnimateAnyone": (
                96.86,
                95.18,
                95.37,
                98.01,
                25.51,
                69.14,
                11.58,
                924.40,
                687.88,
            ),
            _MP: (97.02, 95.27, 95.16, 98.45, 27.31, 71.56, 11.48, 866.36, 626.59),
            f"{_MP}+DisPose": (97.63, 95.70, 95.64, 98.51, 31.34, 71.89, 11.26, 764.00, 622.64),
            "ControlNeXt": (97.55, 94.58, 95.60, 98.75, 27.58, 70.40, 10.49, 496.87, 624.51),
            _MM: (97.56, 94.95, 95.36, 98.67, 28.42, 68.42, 10.50, 598.41, 621.90),
            f"{_MM}+DisPose": (97.73, 95.72, 95.90, 98.89, 29.51, 71.33, 10.24, 466.93, 603.27),
        },
        ("base", "full"),
    ),
    2: Table(
        "unseen people, which were not published: bring your own. The printed header (TF, SC, BC, "
        "MS, DD, IQ, aesthetic) cannot be right; columns are read as their ranges say",
        (
            _SC._replace(known=f"{_STILL}; this reading of the column is inferred"),
            _BC._replace(known=f"{_STILL}; this reading of the column is inferred"),
            _MS,
            _DD,
            _IQ,
            _TF._replace(known=f"{_STILL}; this reading of the column is inferred"),
            Column("aesthetic", "aesthetic", "nearly certain"),
        ),
        {
            "MagicPose": (92.65, 93.71, 98.51, 25.67, 63.78, 93.65, 46.16),
            "Moore-AnimateAnyone": (92.83, 92.42, 98.12, 27.43, 65.32, 94.61, 47.23),
            _MP: (93.12, 93.97, 98.58, 28.72, 65.26, 96.41, 49.34),
            f"{_MP}+DisPose": (93.43, 94.22, 98.76, 29.61, 65.48, 96.63, 49.39),
            "ControlNeXt": (93.25, 94.27, 98.70, 28.42, 64.36, 97.42, 49.10),
            _MM: (93.32, 94.12, 98.50, 29.81, 64.51, 97.45, 49.03),
            f"{_MM}+DisPose": (93.59, 94.35, 98.75, 30.02, 65.56, 97.80, 49.93),
        },
        ("base", "full"),
    ),
    3: Table(
        "ablation on TikTok sequences 335 to 340, MimicMotion",
        (_TF, _SC, _BC, _MS, _DD, _IQ, _FID, _FVD),
        {
            "w/o motion field guidance": (
                97.66,
                95.04,
                95.31,
                98.75,
                29.42,
                69.53,
                10.31,
                478.91,
            ),
            "w/o keypoint correspondence": (
                97.47,
                95.57,
                95.43,
                98.42,
                29.14,
                70.14,
                10.28,
                498.74,
            ),
            "full": (97.73, 95.72, 95.90, 98.89, 29.51, 71.33, 10.24, 466.93),
        },
        ("no_motion", "no_point", "full"),
    ),
    4: Table(
        "the hybrid ControlNet, TikTok sequences 335 to 340, MimicMotion. Exp1: the motion field "
        "enters the denoising U-Net instead; Exp2: no ControlNet, both signals enter the U-Net",
        (_FID, _FVD),
        {"Exp1": (10.43, 514.83), "Exp2": (10.94, 551.32), "full": (10.24, 466.93)},
        ("exp1", "exp2", "full"),
    ),
    5: Table(
        "the dense field of CMP, unseen people. By its ranges the header may be shifted as Table "
        "2's: then these are background consistency and motion smoothness",
        (_SC._replace(known="uncertain column"), _BC._replace(known="uncertain column")),
        {"w/o CMP": (93.94, 97.83), "full": (94.35, 98.75)},
        ("no_cmp", "full"),
    ),
    6: Table(
        "frames against the truth; the data set is not stated, TikTok is implied",
        (
            Column("SSIM", "ssim", "DisCo's: grey, uniform windows"),
            Column("PSNR", "psnr", "float; some papers print a wrapped one"),
            Column("LPIPS", "lpips_disco", "DisCo's: VGG with inputs in 0..1"),
            Column("L1 (1e-5)", "l1", "fits scoring at about 576 x 1024"),
        ),
        {
            _MP: (0.788, 19.14, 0.263, 2.46),
            f"{_MP}+DisPose": (0.811, 19.36, 0.238, 2.26),
            _MM: (0.749, 18.32, 0.272, 2.71),
            f"{_MM}+DisPose": (0.781, 19.58, 0.242, 2.42),
        },
        ("base", "full"),
    ),
    7: Table(
        "cost at 576 x 1024; the printed MB are counts of trainable parameters over 2^20, and "
        "what seconds include is not stated",
        (
            Column("parameters", "parameters", "exact: trainable parameters over 2^20"),
            Column("s/frame", "seconds", "context only: their hardware and steps are unknown"),
        ),
        {_MP: (2072.64, 3.37), _MM: (1454.19, 1.61), f"{_MM}+DisPose": (653.40, 2.36)},
        ("base", "full"),
    ),
}
