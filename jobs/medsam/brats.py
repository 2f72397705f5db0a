"""Patients: volumes and labels out of NIfTI files, masks back into them.

Inside the job every volume is (x, y, z) in RAS: x grows to the patient's right, y to the front, z
to the top. Axes are only swapped and turned round, never resampled, so a mask goes back to the
voxels of the file it came from.

Data:    a folder for each patient as in BraTS 2018 to 2021 and 2023, or the Medical Segmentation
         Decathlon's Task01 (one file of four dimensions); `.nii` or `.nii.gz`.
Source:  Menze et al., IEEE TMI 2015 (labels, regions); Antonelli et al., Nature Communications
         2022 (Decathlon); NIfTI-1, nifti.nimh.nih.gov.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.data import written
from slipway.errors import DataUnavailable, InputInvalid

if TYPE_CHECKING:
    import numpy as np

MODALITIES = ("t1", "t1ce", "t2", "flair")
CHANNELS = ("flair", "t1ce", "t2")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
"""Whole tumour, tumour core, enhancing tumour, in the labels of BraTS until 2021."""
ALIASES = {
    "t1": ("t1", "t1n", "t1w"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
    "seg": ("seg", "segm", "mask"),
}
KNOWN = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
RELABELLED = {3: 4}
"""BraTS 2023 calls enhancing tumour 3."""
DECATHLON = {1: 2, 2: 1, 3: 4}
"""Oedema, non-enhancing and enhancing tumour in the Decathlon's order."""
DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")
ASKEW = "found an affine without direction; wanted three axes of space"
MOST_OFFSET = 2**24
"""Bytes before the voxels: a header and its extensions."""
FURTHEST = 1e9
"""Millimetres that no affine may hold: beyond them lies damage."""
MOST_VOXELS = 2**27
"""Of one file, 15 times a volume of BraTS: a small file must not unfold to the whole memory."""
SLACK = 2**20
"""Bytes that may follow the voxels."""
NAMED = re.compile(r"(?:(?P<case>.+)[_-])?(?P<kind>[A-Za-z0-9]+)\.nii(\.gz)?$", re.IGNORECASE)
Content = Path | bytes


@dataclass(frozen=True)
class Files:
    """Where a patient's volumes lie: a file for each modality, or one ``stack`` of all.

    ``order`` names what lies along the fourth axis of the stack; ``labels`` maps foreign labels.
    """

    name: str
    volumes: Mapping[str, Content] = field(default_factory=dict)
    segmentation: Content | None = None
    stack: Content | None = None
    order: Sequence[str] = DECATHLON_ORDER
    labels: Mapping[int, int] = field(default_factory=lambda: RELABELLED)


@dataclass(frozen=True)
class Original:
    """How a file lay before it was turned to RAS: what `encoded` needs to turn a mask back."""

    orientation: np.ndarray
    header: Any


@dataclass(frozen=True)
class Case:
    """One patient: volumes (x, y, z) float32, labels 0, 1, 2, 4 uint8, affine (4, 4), all RAS."""

    name: str
    volumes: dict[str, np.ndarray]
    segmentation: np.ndarray | None
    affine: np.ndarray
    original: Original | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The size of a voxel in mm."""
        return spacing_of(self.affine)

    @property
    def shape(self) -> tuple[int, ...]:
        """The voxels along x, y, z."""
        return next(iter(self.volumes.values())).shape


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the lengths of an affine's columns: mm a voxel."""
    x, y, z = (float(math.hypot(*affine[:3, axis])) for axis in range(3))
    return x, y, z


# Finding patients


def patients(folder: Path) -> list[Files]:
    """Return the patients below a folder, by name; InputInvalid where there is none."""
    found = _decathlon(folder) if (folder / "imagesTr").is_dir() else _brats(folder)
    if not found:
        raise InputInvalid(
            f"{folder}: found no patient; wanted folders with files like "
            "NAME_flair.nii.gz, or imagesTr/NAME.nii.gz"
        )
    return sorted(found, key=lambda files: files.name)


def _brats(folder: Path) -> list[Files]:
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return [files for place in sorted(places) if (files := of_folder(place)).volumes]


def of_folder(folder: Path) -> Files:
    """Return the volumes that lie in one folder, by the ends of their names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = NAMED.match(path.name)
        kind = KNOWN.get(match["kind"].lower(), "") if match else ""
        if not kind or path.name.startswith(".") or not path.is_file():
            continue
        if kind in found:
            raise InputInvalid(
                f"case {folder.name}: found {found[kind].name} and {path.name}; wanted one {kind}"
            )
        found[kind] = path
    return Files(folder.name, found, found.pop("seg", None))


def _decathlon(folder: Path) -> list[Files]:
    order = _decathlon_order(folder / "dataset.json")
    paths = (path for path in (folder / "imagesTr").iterdir() if not path.name.startswith("."))
    found = []
    for path in (path for path in paths if path.name.endswith((".nii", ".nii.gz"))):
        labels = folder / "labelsTr" / path.name
        name = path.name.partition(".nii")[0]
        held = labels if labels.is_file() else None
        found.append(Files(name, {}, held, path, order, DECATHLON))
    return found


def _decathlon_order(path: Path) -> Sequence[str]:
    if not path.is_file():
        return DECATHLON_ORDER
    try:
        told = json.loads(path.read_text("utf-8"))["modality"]
        return [KNOWN[told[str(place)].lower()] for place in range(len(told))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputInvalid(
            f"{path}: found no 'modality' that names FLAIR, T1w, t1gd, T2w ({error!r})"
        ) from None


# Reading


def read(files: Files | Path, modalities: Sequence[str] = MODALITIES) -> Case:
    """Return a patient in RAS; InputInvalid names the case, the volume and what is wrong."""
    files = of_folder(files) if isinstance(files, Path) else files
    images = _volumes(files, modalities)
    first = next(iter(images.values()))
    for kind, image in images.items():
        _same_grid(files.name, kind, image, first)
    segmentation = None
    if files.segmentation is not None:
        labels = _image(files.segmentation, files.name, "seg")
        _same_grid(files.name, "seg", labels, first)
        segmentation = _labels(labels.data, files)
    volumes = {kind: image.data for kind, image in images.items()}
    return Case(files.name, volumes, segmentation, first.affine, first.original)


@dataclass(frozen=True)
class _Image:
    data: np.ndarray
    affine: np.ndarray
    original: Original


def _volumes(files: Files, modalities: Sequence[str]) -> dict[str, _Image]:
    if files.stack is not None:
        found = _unstacked(files)
    else:
        found = {}
        for kind in modalities:
            if kind not in files.volumes:
                held = ", ".join(files.volumes) or "none"
                raise InputInvalid(f"case {files.name}: found {held}; wanted a {kind} volume too")
            found[kind] = _image(files.volumes[kind], files.name, kind)
    for kind in modalities:
        if kind not in found:
            raise InputInvalid(
                f"case {files.name}: found {', '.join(found)} along the fourth axis; wanted {kind}"
            )
        _check_intensities(found[kind].data, files.name, kind)
    return {kind: found[kind] for kind in modalities}


def _unstacked(files: Files) -> dict[str, _Image]:
    image = _image(files.stack or b"", files.name, "stack", axes=4)
    if image.data.shape[3] != len(files.order):
        raise InputInvalid(
            f"case {files.name}: found shape {image.data.shape}; wanted {len(files.order)} along "
            f"the fourth axis: {', '.join(files.order)}"
        )
    return {
        kind: _Image(image.data[..., place], image.affine, image.original)
        for place, kind in enumerate(files.order)
    }


def _image(content: Content, case: str, kind: str, axes: int = 3) -> _Image:
    """Return one file's voxels as float32 in RAS."""
    import numpy as np
    from nibabel import orientations

    told = f"case {case}, {kind}" + (f" ({content})" if isinstance(content, Path) else "")
    image = _nifti(content, told)
    shape = image.shape
    while len(shape) > axes and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != axes:
        raise InputInvalid(f"{told}: found shape {image.shape}; wanted {axes} axes")
    orientation = orientations.io_orientation(image.affine)
    if not np.isfinite(orientation).all():
        raise InputInvalid(f"{told}: {ASKEW}")
    with np.errstate(all="ignore"):  # what is no number any more is told where voxels are checked
        data = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    turned = orientations.apply_orientation(data, orientation)
    affine = image.affine @ orientations.inv_ornt_aff(orientation, shape[:3])
    header = image.header.copy()
    return _Image(np.ascontiguousarray(turned), affine, Original(orientation, header))


def _nifti(content: Content, told: str) -> Any:
    """Return a nibabel image that is whole and of a bearable size."""
    import nibabel
    import numpy as np
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        with _stream(content) as file:
            head = file.read(540)
            header = _header(head)
            voxels = math.prod(map(int, header.get_data_shape()))
            if not 0 < voxels <= MOST_VOXELS:
                raise InputInvalid(f"{told}: found {voxels:,} voxels; wanted 1 to {MOST_VOXELS:,}")
            offset = int(header.get_data_offset())
            if offset > MOST_OFFSET:
                raise InputInvalid(f"{told}: found voxels from byte {offset:,} on; wanted them "
                                   f"within the first {MOST_OFFSET:,}")  # fmt: skip
            size = offset + voxels * header.get_data_dtype().itemsize
            whole = head + file.read(max(size - len(head), 0))
            file.read(SLACK)  # at the end gzip compares its checksum
        with np.errstate(all="ignore"):
            affine = header.get_best_affine()
    except FileNotFoundError:
        raise DataUnavailable(f"{told}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputInvalid(f"{told}: found a broken gzip file ({error}); wanted it whole") from None
    except (OSError, ValueError, HeaderDataError, WrapStructError) as error:
        raise InputInvalid(f"{told}: found no NIfTI file ({error})") from None
    if len(whole) < size:
        raise InputInvalid(f"{told}: found {len(whole):,} bytes of voxels; wanted {size:,}")
    if header.get_data_dtype().kind not in "iuf":
        raise InputInvalid(f"{told}: found {header.get_data_dtype()} voxels; wanted numbers")
    if not (np.abs(affine) < FURTHEST).all():  # nor where one is not a number
        raise InputInvalid(f"{told}: {ASKEW}")
    kind = nibabel.Nifti1Image if header["sizeof_hdr"] == 348 else nibabel.Nifti2Image
    return kind.from_bytes(whole)


@contextmanager
def _stream(content: Content) -> Iterator[Any]:
    """Open a file or bytes, unpacking gzip by what is in it, not by its name."""
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield gzip.GzipFile(fileobj=file) if packed else file


def _header(head: bytes) -> Any:
    import nibabel

    if int.from_bytes(head[:4], "little") == 540 or int.from_bytes(head[:4], "big") == 540:
        return nibabel.Nifti2Header(head[:540])
    return nibabel.Nifti1Header(head[:348])


def _same_grid(case: str, kind: str, image: _Image, first: _Image) -> None:
    import numpy as np

    if image.data.shape != first.data.shape:
        raise InputInvalid(
            f"case {case}, {kind}: found shape {image.data.shape}; wanted {first.data.shape} as "
            "the other volumes have"
        )
    corner = np.array([*first.data.shape[:3], 1.0])
    apart = np.abs((image.affine - first.affine) @ corner).max()
    if not apart <= 0.1 * min(spacing_of(first.affine)):
        raise InputInvalid(
            f"case {case}, {kind}: found an affine {apart:.3g} mm off at the corner; wanted that "
            "of the other volumes: co-register them first"
        )


def _check_intensities(data: np.ndarray, case: str, kind: str) -> None:
    import numpy as np

    wrong = int(np.count_nonzero(~np.isfinite(data)))
    if wrong:
        raise InputInvalid(
            f"case {case}, {kind}: found {wrong:,} voxels of {data.size:,} that are NaN or "
            "infinite; wanted numbers"
        )
    if data.min() == data.max():
        raise InputInvalid(f"case {case}, {kind}: found {data.max():g} in every voxel; wanted MRI")


def _labels(data: np.ndarray, files: Files) -> np.ndarray:
    """Return labels as uint8 0, 1, 2, 4."""
    import numpy as np

    found = np.unique(data)
    known = {0, 1, 2, 4} | set(files.labels)
    odd = [value for value in found.tolist() if value not in known]
    if odd:
        shown = ", ".join(f"{value:g}" for value in odd[:5])
        wanted = ", ".join(map(str, sorted(known)))
        raise InputInvalid(f"case {files.name}, seg: found labels {shown}; wanted {wanted}")
    table = np.array([files.labels.get(value, value) for value in range(5)], np.uint8)
    return table[data.astype(np.uint8)]


def read_one(content: Content, name: str) -> Case:
    """Return a case of one file: four modalities in the Decathlon's order, or one, as FLAIR."""
    if len(_nifti(content, f"case {name}").shape) > 3:
        return read(Files(name, stack=content))
    return read(Files(name, {"flair": content}), ["flair"])


def three_of(case: Case) -> tuple[str, ...]:
    """Return what fills the three channels of a case; for one that it lacks its first volume."""
    first = next(iter(case.volumes))
    return tuple(name if name in case.volumes else first for name in CHANNELS)


def read_mask(content: Content, case: str = "", kind: str = "mask") -> np.ndarray:
    """Return a mask of one file as bool (x, y, z) in RAS: what is not zero."""
    return _image(content, case, kind).data != 0


# What a network and a file are given


def channels(case: Case, names: Sequence[str] = CHANNELS) -> np.ndarray:
    """Return three modalities as float32 (3, z, y, x), each `normalised`; one name fills all."""
    import numpy as np

    names = [*names] * 3 if len(names) == 1 else names
    found = {name: normalised(case.volumes[name]) for name in set(names)}
    return np.stack([found[name].transpose(2, 1, 0) for name in names])


def normalised(volume: np.ndarray) -> np.ndarray:
    """Return a volume clipped to its 0.5th and 99.5th percentile, of mean 0 and deviation 1.

    Both are of the voxels that are not zero, the brain after skull stripping; what is zero gets
    the value of the darkest tissue (as in the paper of MedSAM-2 and in nnU-Net).
    """
    import numpy as np

    inside = volume[volume != 0]
    low, high = np.percentile(inside, (0.5, 99.5))
    clipped = inside.clip(low, high)
    mean, deviation = clipped.mean(), clipped.std() + 1e-6
    return ((volume.clip(low, high) - mean) / deviation).astype(np.float32)


def region(segmentation: np.ndarray, name: str) -> np.ndarray:
    """Return the mask of WT, TC or ET."""
    import numpy as np

    return np.isin(segmentation, REGIONS[name])


def encoded(mask: np.ndarray, case: Case) -> bytes:
    """Return a mask (x, y, z) in RAS as gzip-ed NIfTI on the grid and affine of the input."""
    import nibabel
    import numpy as np
    from nibabel import orientations

    if case.original is None:
        turned, affine, header = mask, case.affine, None
    else:
        back = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]),
                                           case.original.orientation)  # fmt: skip
        header = case.original.header.copy()
        turned, affine = orientations.apply_orientation(mask, back), header.get_best_affine()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"] = header["cal_max"] = 0
    kind = nibabel.Nifti2Image if header and header["sizeof_hdr"] == 540 else nibabel.Nifti1Image
    image = kind(np.ascontiguousarray(turned, np.uint8), affine, header)
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def write(mask: np.ndarray, case: Case, path: Path) -> None:
    """Write `encoded`, whole or not at all."""
    with written(path) as part:
        part.write_bytes(encoded(mask, case))
