"""Synthetic brain MRI, 2-D and 3-D: the anatomy has the same distribution at every site, only the
scanner differs.

Research and testing only: the heads are drawn from ellipsoids and smooth noise, from no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from allograft.errors import SpecError, nearest
from allograft.phantoms.head import CSF, GREY_MATTER, SCALP, SKULL, WHITE_MATTER, draw_head, label_head
from allograft.phantoms.parts import Row, check_request, draws, stretched, subjects_of, write_cohort

# field strength (T) -> proton density (water = 1), T1, T2 (ms): round figures near those reported
# in vivo; the scalp is mostly fat
TISSUES: Mapping[int, Mapping[float, tuple[float, float, float]]] = MappingProxyType(
    {
        WHITE_MATTER: {1.5: (0.70, 600, 75), 3.0: (0.70, 850, 70)},
        GREY_MATTER: {1.5: (0.80, 950, 95), 3.0: (0.80, 1400, 90)},
        CSF: {1.5: (1.00, 4000, 1500), 3.0: (1.00, 4200, 1500)},
        SKULL: {1.5: (0.10, 600, 1), 3.0: (0.10, 800, 1)},
        SCALP: {1.5: (0.90, 300, 70), 3.0: (0.90, 370, 65)},
    }
)


@dataclass(frozen=True)
class Scanner:
    """How a site turns tissue into pixels. ``SpecError`` for a value out of range.

    >>> Scanner(field_strength=3.0, tr=500, te=15).noise
    0.04
    """

    field_strength: float = 1.5  # tesla, 1.5 or 3.0: sets T1 and T2 of the tissues
    tr: float = 500.0  # repetition time, ms
    te: float = 15.0  # echo time, ms
    # largest absolute log gain of the smooth bias field; 0.5 = gains within 0.6..1.65
    bias: float = 0.1
    # standard deviation of either channel, as a share of this scanner's white-matter signal, as
    # BrainWeb has it
    noise: float = 0.04
    blur: float = 0.5  # standard deviation of the point spread function, pixels
    scale: float = 4000.0  # grey value of fully relaxed water

    def __post_init__(self) -> None:
        if self.field_strength not in TISSUES[CSF]:
            raise SpecError(
                f"scanner: field_strength is {self.field_strength}; expected one of {sorted(TISSUES[CSF])} (tesla)"
            )
        for name, value in asdict(self).items():
            if not 0 <= value < np.inf or (value == 0 and name in ("tr", "scale")):
                raise SpecError(
                    f"scanner: {name} is {value}; expected a finite number, and tr and scale above 0, the others at "
                    "least 0"
                )


# Away from crisp T1 weighting at 1.5 T: a higher field and a longer TR weaken the contrast of grey
# and white matter, the coil and the
# resolution add to it. All keep the order of the tissues, so that each site can be learned from its
# own labels.
SHIFTS: Mapping[str, Scanner] = MappingProxyType(
    {
        "none": Scanner(),
        "subtle": Scanner(field_strength=3.0, tr=600, te=12, bias=0.2, noise=0.05, blur=0.6, scale=6000),
        "medium": Scanner(field_strength=3.0, tr=900, te=15, bias=0.3, noise=0.05, blur=0.7, scale=2500),
        "severe": Scanner(field_strength=3.0, tr=900, te=15, bias=0.7, noise=0.05, blur=0.9, scale=3000),
    }
)

STRUCTURES = ("tissue", "sulcus")

# "a" is the source; "d" is the control: another site with the source's scanner
SITES: Mapping[str, str] = MappingProxyType({"a": "none", "b": "severe", "c": "medium", "d": "none"})


def spin_echo(pd: ArrayLike, t1: ArrayLike, t2: ArrayLike, tr: float, te: float) -> NDArray[np.float64]:
    """Signal of a spin-echo sequence, ``S = PD * (1 - exp(-TR / T1)) * exp(-TE / T2)``.

    Args:
        pd: proton density, 1 = water; ``pd``, ``t1`` and ``t2`` broadcast, and the signal has the
            unit of ``pd``.
        t1, t2: longitudinal and transverse relaxation time, ms.
        tr, te: repetition and echo time, ms. The equation holds for TE much shorter than TR.

    >>> round(float(spin_echo(1.0, 500.0, 100.0, tr=500.0, te=100.0)), 4)  # (1 - 1/e) / e
    0.2325
    """
    return np.asarray(pd) * -np.expm1(-tr / np.asarray(t1)) * np.exp(-te / np.asarray(t2))


def anatomy(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Draw one subject: (*shape) tissue indices, 2-D (an axial slice) or 3-D; else ``SpecError``.
    See `draw_head` and `label_head`.

    >>> np.unique(anatomy(np.random.default_rng(0), (64, 64))).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    if len(shape) not in (2, 3):
        raise SpecError(f"brain phantom: shape {shape} has {len(shape)} axes; expected 2 or 3")
    return label_head(draw_head(rng, len(shape)), shape)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """The random parameters of one scan, drawn alike for every scanner."""

    gain: float  # of the receiver in this scan, about 1
    # (*shape) smooth, within -1..1: the log bias field before its strength
    field: NDArray[np.float64]
    noise: NDArray[np.float64]  # (2, *shape) standard normal: real and imaginary channel


def draw_acquisition(rng: np.random.Generator, shape: tuple[int, ...]) -> Acquisition:
    """Draw what differs from scan to scan.

    >>> draw_acquisition(np.random.default_rng(0), (32, 32)).noise.shape
    (2, 32, 32)
    """
    field = stretched(rng.standard_normal((3,) * len(shape)), shape)
    field = field - field.mean()
    return Acquisition(
        float(np.exp(0.1 * rng.standard_normal())), field / np.abs(field).max(), rng.standard_normal((2, *shape))
    )


def scan(tissue: NDArray[np.uint8], scanner: Scanner, drawn: Acquisition) -> NDArray[np.float32]:
    """Scan a tissue map (*shape): spin echo, bias field, blur, Rician noise (the magnitude of a
    complex signal), scale, in this order.

    Returns (*shape) grey values >= 0.

    >>> water = np.full((32, 32), CSF, dtype=np.uint8)
    >>> clean = Scanner(tr=1e9, te=0, bias=0, noise=0, blur=0, scale=100)
    >>> drawn = draw_acquisition(np.random.default_rng(0), (32, 32))
    >>> bool(np.allclose(scan(water, clean, drawn), 100 * drawn.gain))
    True
    """
    signals = np.zeros(6)
    for index, at in TISSUES.items():
        signals[index] = spin_echo(*at[scanner.field_strength], scanner.tr, scanner.te)
    signal = signals[tissue] * np.exp(scanner.bias * drawn.field)
    signal = ndimage.gaussian_filter(signal, scanner.blur) if scanner.blur else signal
    real, imaginary = scanner.noise * signals[WHITE_MATTER] * drawn.noise
    return np.asarray(scanner.scale * drawn.gain * np.hypot(signal + real, imaginary), dtype=np.float32)


def acquire(tissue: NDArray[np.uint8], scanner: Scanner, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw one scan and take it: (*shape) tissue indices -> (*shape) grey values >= 0. See
    `draw_acquisition` and `scan`.

    >>> acquire(anatomy(np.random.default_rng(0), (32, 32)), SHIFTS["severe"], np.random.default_rng(1)).dtype
    dtype('float32')
    """
    return scan(tissue, scanner, draw_acquisition(rng, tissue.shape))


def write_brain(
    out: Path,
    *,
    dims: int = 2,
    sites: Mapping[str, str] = SITES,
    subjects: int = 12,
    size: int = 64,
    structure: str = "tissue",
    seed: int = 0,
) -> Path:
    """Write a cohort of brains whose sites differ in appearance alone; the same arguments write the
    same bytes.

    ``dims=2``: 16-bit greyscale PNG, 8-bit PNG masks. ``dims=3``: ``.nii.gz``, uint16, masks uint8,
    identity affine (1 mm, RAS). Mask values: 0 = rest, 1 = white matter, 2 = grey matter.
    ``shift.json`` beside the manifest states each site's scanner.

    Args:
        out: folder, made if absent; files of the same names are replaced. ``OutputError`` when it
            cannot be written.
        sites: site name -> name in `SHIFTS`. Default: ``a`` the source, ``b`` severe, ``c`` medium,
            ``d`` a control without a shift.
        subjects: subjects per site, one image each. No subject is at two sites.
        size: pixels along each axis, at least 32.
        structure: what is labelled: ``tissue``, or ``sulcus``, a fold beside the midline that is
            absent, small or present (the column ``label``). Its mask values: 1 = skeleton of the
            other sulci, 2 = the sulcus; see ``phantoms.sulcus``.
        seed: of all draws. A subject depends on (seed, site, number) only: more sites or subjects
            leave the others as they are.

    Returns the path of ``manifest.csv`` (``image,mask,subject,site``). ``SpecError`` for an unknown
    shift, a bad site name or number.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(write_brain(Path(folder), sites={"a": "none"}, subjects=1, size=32).read_text().splitlines()[1])
    images/a-000.png,masks/a-000.png,a-000,a
    """
    check_request("brain", dims, sites, SHIFTS, (subjects, size), possible=(2, 3))
    if structure not in STRUCTURES:
        raise SpecError(f"brain phantom: {nearest(structure, STRUCTURES, 'structure')}")
    scanners = {site: {"shift": shift, **asdict(SHIFTS[shift])} for site, shift in sites.items()}
    facts: dict[str, Any] = {"phantom": "brain", "dims": dims, "size": size, "subjects": subjects, "seed": seed}
    facts |= {"structure": structure} if structure != "tissue" else {}
    if structure == "sulcus":
        from allograft.phantoms.sulcus import rows_of as rows
    else:
        rows = _rows
    made = rows(sites, subjects, (size,) * dims, seed)
    return write_cohort(out, made, {**facts, "sites": scanners}, ".png" if dims == 2 else ".nii.gz")


def _rows(sites: Mapping[str, str], subjects: int, shape: tuple[int, ...], seed: int) -> Iterator[Row]:
    for site, shift, _, subject in subjects_of(sites, subjects):
        tissue = anatomy(draws(seed, "anatomy", site, subject), shape)
        image = acquire(tissue, SHIFTS[shift], draws(seed, "scan", site, subject))
        mask = np.where(tissue <= GREY_MATTER, tissue, 0).astype(np.uint8)
        yield {
            "image": np.rint(image).clip(0, 65535).astype(np.uint16),
            "mask": mask,
            "subject": subject,
            "site": site,
        }
