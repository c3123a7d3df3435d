"""What a hostile or careless hand can write: each is read as the same head, or refused in one line with its name."""

import struct
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoddpm.data import load_dataset
from autoddpm.find import FoundScan, dicom_series
from autoddpm.scans.batch import make_ready
from autoddpm.scans.corpus import HEAD_AFFINE, make_head, save_head, write_frames
from autoddpm.scans.prepare import list_items, prepare_item
from autoddpm.scans.preprocess import read_dicom
from autoddpm.scans.writing import _like
from autoddpm.volumes import read_nifti

HEAD = (3000 * make_head()).astype(np.int16)
BACKWARDS = range(HEAD.shape[2])[::-1]
SHUFFLED = np.random.default_rng(0).permutation(HEAD.shape[2])


def read_frames_file(path: Path) -> nib.Nifti1Image:
    (files,) = dicom_series(path.parent).values()
    return read_dicom(list(files), str(path))


@pytest.mark.parametrize("order", [None, BACKWARDS, SHUFFLED], ids=["as series", "backwards", "shuffled"])
@pytest.mark.parametrize("implicit", [False, True])
def test_frames_of_one_file_are_put_in_order(tmp_path, order, implicit):
    volume = read_frames_file(write_frames(tmp_path / "IM1", HEAD, order, implicit=implicit))
    assert np.allclose(volume.affine, HEAD_AFFINE) and np.array_equal(volume.get_fdata(), HEAD)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(order=[*range(62), 61]), "places twice"),
        (dict(order=[*range(30), *range(31, 63)]), "slices missing"),
        (dict(order=np.repeat(range(31), 2), echoes=[2.5, 5.0] * 31), "several kinds (by echo time)"),
    ],
)
def test_frames_that_are_no_stack_are_refused(tmp_path, options, says):
    with pytest.raises(ValueError) as error:
        read_frames_file(write_frames(tmp_path / "IM1", HEAD, **options))
    assert says in str(error.value) and str(error.value).startswith(f"{tmp_path / 'IM1'}: ")


def test_frames_without_places_are_refused(tmp_path):
    path = write_frames(tmp_path / "IM1", HEAD)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(struct.pack("<HH2s", 0x5200, 0x9230, b"SQ"), struct.pack("<HH2s", 0x5200, 0x9231, b"SQ"))
    )
    with pytest.raises(ValueError, match="does not say where they lie"):
        read_frames_file(path)


def spoiled(path: Path, **fields) -> Path:
    "The head with fields of its header changed by hand."
    content = bytearray(save_head(path, HEAD).read_bytes())
    for name, value in fields.items():
        dtype, at = nib.Nifti1Header.template_dtype.fields[name][:2]
        content[at : at + dtype.itemsize] = np.array(value, dtype.base).tobytes()
    path.write_bytes(content)
    return path


def written(ready) -> nib.Nifti1Image:
    "A map of a scan, as read from its file."
    return nib.Nifti1Image.from_bytes(_like(np.zeros(HEAD.shape, np.float32), ready).to_bytes())


def test_a_bad_qform_is_not_copied_into_results(tmp_path):
    path = spoiled(tmp_path / "a.nii", quatern_b=np.nan, qform_code=1, pixdim=[0.0] * 8)
    assert np.array_equal(read_nifti(path).get_fdata(), HEAD)
    ready = make_ready(FoundScan(path), [23])
    result = written(ready)
    assert np.allclose(result.affine, HEAD_AFFINE) and result.header["qform_code"] == 0
    assert np.isfinite([float(result.header[name]) for name in ("quatern_b", "qoffset_x")]).all()
    assert np.allclose(result.header.get_zooms(), 3)


def test_a_result_has_the_unit_of_its_scan(tmp_path):
    image = nib.Nifti1Image(HEAD, np.diag([0.001, 0.001, 0.001, 1]) @ HEAD_AFFINE)
    image.set_sform(image.affine, 4)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "metres.nii")
    ready = make_ready(FoundScan(tmp_path / "metres.nii"), [23])
    same = make_ready(FoundScan(save_head(tmp_path / "mm.nii", HEAD)), [23])
    assert np.allclose(ready.planes[23], same.planes[23], atol=1e-4)
    result = written(ready)
    assert np.allclose(result.affine, image.affine) and result.header.get_xyzt_units()[0] == "meter"


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "30000 x 30000 x 30000 values"),
        (dict(dim=[3, -5, 78, 63, 1, 1, 1, 1]), "empty"),
        (dict(vox_offset=1e30), "no readable NIfTI"),
        (dict(vox_offset=np.nan), "no readable NIfTI"),
        (dict(datatype=32), "complex numbers"),
        (dict(datatype=7), "no readable NIfTI"),
        (dict(scl_slope=3e38), "NaN or infinite"),
        (dict(xyzt_units=5), "unknown unit of length"),
        (dict(sform_code=0, qform_code=1, quatern_b=2.0), "impossible rotation"),
        (dict(sform_code=0), "without an affine"),
    ],
)
def test_a_bad_header_is_refused_alike_by_all(tmp_path, fields, says):
    path = spoiled(tmp_path / "in" / "a.nii", **fields)
    (item,), _ = list_items("folder", path.parent, tmp_path / "out")
    told = [prepare_item(item, path.parent, tmp_path / "out")["reason"], make_ready(FoundScan(path), [23])]
    with pytest.raises(ValueError) as error:
        load_dataset("folder", root=path.parent)[0]
    told.append(str(error.value))
    assert all(says in text and "\n" not in text for text in told), told


def test_a_tar_member_that_is_too_large_is_not_read(tmp_path):
    for name, kind, told in (("a", tarfile.REGTYPE, "above the limit"), ("b", tarfile.XHDTYPE, "no readable tar file")):
        member = tarfile.TarInfo("IXI002-Guys-0828-T1.nii.gz")
        member.size, member.type = 1 << 32, kind
        with open(tmp_path / f"{name}.tar", "wb") as file:  # with holes, which take no space
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.truncate(512 + member.size + 1024)
        (item,), _ = list_items("ixi", tmp_path / f"{name}.tar", tmp_path / "out")
        assert told in prepare_item(item, tmp_path / f"{name}.tar", tmp_path / "out")["reason"]


def test_a_mask_lies_where_its_scan_does(tmp_path):
    ball = np.linalg.norm(np.stack(np.indices(HEAD.shape), -1) - [25, 40, 32], axis=-1) < 4
    save_head(tmp_path / "a.nii.gz", HEAD)  # says that it lies in MNI space
    save_head(tmp_path / "a_mask.nii.gz", ball.astype(np.uint8), code=1)  # does not
    aside = HEAD_AFFINE + np.eye(4, k=3) * 9  # 9 mm to the side
    save_head(tmp_path / "b.nii.gz", HEAD)
    save_head(tmp_path / "b_mask.nii.gz", ball.astype(np.uint8), aside)
    first, second = load_dataset("folder", root=tmp_path)[:1], load_dataset("folder", root=tmp_path)[1:]
    assert 80 < first[0].mask.sum() < 160
    with pytest.raises(ValueError, match="b_mask.nii.gz: mask on another grid than its scan .*elsewhere"):
        second.masks()
