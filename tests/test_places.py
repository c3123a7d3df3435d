"""Results lie where the scan has the lesion, however its voxels are stored: a made-up head with a spot at its left, in
volumes that are tilted, stretched and stored along any axes, and in slices that are turned. Two programs that know
nothing of each other, nibabel and ITK, find the peak where the table says, on the side it says.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from autoddpm.find import FoundScan
from autoddpm.phantom import NATIVE_SHAPE, head_phantom, to_native
from autoddpm.scans.bids import Place
from autoddpm.scans.clusters import read_clusters
from autoddpm.scans.preprocess import Registration
from autoddpm.scans.writing import LEVEL, Calibrated, Ready, write_scan

HEAD = head_phantom(2)[0]
SPOT = torch.zeros(1, 128, 128)
SPOT[0, 60:66, 40:46] = 1  # at the left of the picture
SCAN = HEAD * (1 - SPOT)
FACTS = dict(weights=dict(name="none", sha256="0" * 64), settings=dict(method="autoddpm"), levels=[LEVEL], seeds=1)
FACTS |= dict(slab=0.0, by_hand=False, notes=[], code="as tested", python="3", packages={}, request="r")
MEASURED = Calibrated(masking=0.2, threshold=0.02, healthy=dict(scores=[0.01, 0.9], **{"from": "test"}))
SIZE, AFFINE = (130, 150, 120), nib.affines.from_matvec(np.diag([1.5, 1.6, 1.7]), [-98, -130, -80])


def write(folder: Path, levels: list, shape: tuple, affine: np.ndarray, way: Registration | None, slab=0.0) -> tuple:
    "The record of a scan with a spot, and its regions."
    stages = dict(scan=SCAN, coarse=HEAD, likelihood=SPOT / 2, mask=SPOT, stitched=HEAD, restored=HEAD)
    stages = {name: x.repeat(len(levels), 1, 1) for name, x in (stages | dict(anomaly_map=SPOT / 2)).items()}
    planes = dict.fromkeys(levels, to_native(SCAN)[0].numpy())
    header = nib.Nifti1Image(np.zeros(shape, np.uint8), affine).header
    ready = Ready(planes, stages["scan"][:, None].numpy(), way, shape, affine, header, dict(cost=None), [], {})
    facts, place = FACTS | dict(slab=slab), Place(folder.parent, folder.name)
    record = write_scan(place, FoundScan(Path("scan.nii"), id="scan"), ready, stages, MEASURED, facts)
    return record, read_clusters(folder / "clusters.tsv")


def off(folder: Path, region) -> float:
    "Millimetres from the peak in the table to the nearest of the largest values in the file."
    image = nib.load(folder / "anomaly_map.nii.gz")
    values = image.get_fdata().reshape((*image.shape, 1)[:3])
    peaks = np.argwhere(values > 0.98 * values.max())
    ours = nib.affines.apply_affine(image.affine, peaks)
    if image.ndim == 3:
        other = sitk.ReadImage(str(folder / "anomaly_map.nii.gz"))
        theirs = np.array([other.TransformIndexToPhysicalPoint(p.tolist()) for p in peaks]) * [-1, -1, 1]
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    coverage = nib.load(folder / "coverage.nii.gz").get_fdata().reshape(values.shape)
    assert not values[coverage == 0].any(), "a value where nothing was looked at"
    return np.linalg.norm(ours - [region.x, region.y, region.z], axis=1).min()


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA", "ASR"])
def test_volumes_however_they_are_stored(axes, tmp_path):
    random = np.random.default_rng(sum(axes.encode()))
    turn = nib.eulerangles.euler2mat(*random.uniform(-0.3, 0.3, 3)) @ np.diag(stretch := random.uniform(0.85, 1.1, 3))
    way = Registration(nib.affines.from_matvec(turn, random.uniform(-10, 10, 3)), 0.0)
    straight = nib.Nifti1Image(np.zeros(SIZE, np.uint8), AFFINE)
    stored = straight.as_reoriented(nib.orientations.axcodes2ornt(axes))
    record, table = write(tmp_path / "scan", [LEVEL], stored.shape, stored.affine, way)
    (region,) = table.itertuples()
    assert (region.side, region.x_mni < -10, region.z_mni, record["clusters"]) == ("L", True, LEVEL, 1)
    assert off(tmp_path / "scan", region) < 2
    pixels = nib.load(tmp_path / "scan" / "mask_space-MNI152.nii.gz").get_fdata().sum()
    assert region.area_mm2 == pytest.approx(pixels * stretch[0] * stretch[1], rel=1e-4)  # the scan's millimetres
    assert np.isnan(region.volume_ml) and record["volume_ml"] == pytest.approx(record["voxels"] * 1.5 * 1.6 * 1.7e-3)


def test_neighbouring_planes_are_one_region(tmp_path):
    _, table = write(tmp_path / "scan", [22, LEVEL, 24, 40], SIZE, AFFINE, Registration.identity())
    assert sorted(table.z_mni)[1] == 40 and sorted(table.z_mni)[0] in (22, LEVEL, 24)
    assert table.volume_ml.isna().sum() == 1
    assert table.volume_ml.max() == pytest.approx(3 * table.area_mm2.max() / 1000)


def test_a_slab_is_as_thick_as_it_says(tmp_path):
    turn = nib.eulerangles.euler2mat(0.2, 0.1, 0) @ np.diag([1, 1, 0.8])
    way = Registration(nib.affines.from_matvec(turn, [3, -5, 8]), 0.0)
    _, table = write(tmp_path / "thin", [LEVEL], SIZE, AFFINE, way)
    record, thick = write(tmp_path / "thick", [LEVEL], SIZE, AFFINE, way, slab=12.0)
    pd.testing.assert_frame_equal(table, thick)  # regions are those of the plane
    assert off(tmp_path / "thick", next(thick.itertuples())) < 6 + 2
    up = np.linalg.inv(turn)[2]
    for name in ("coverage", "mask", "anomaly_map"):
        image = nib.load(tmp_path / "thick" / f"{name}.nii.gz")
        there = nib.affines.apply_affine(image.affine, np.argwhere(image.get_fdata() > 0)) - [3, -5, 8]
        height = (there @ up - LEVEL) / np.linalg.norm(up)  # above the plane, in mm of the scan
        assert -6.01 < height.min() < -5 and 5 < height.max() < 6.01, name
    assert record["volume_ml"] == pytest.approx(12 / 1000 * thick.area_mm2[0], rel=0.1)


ROWS, COLUMNS = NATIVE_SHAPE
TURNED = {
    "from right to left": ((COLUMNS, ROWS), np.diag([-1.0, 1, 1, 1])),
    "from front to back": ((COLUMNS, ROWS), np.diag([1.0, -1, 1, 1])),
    "rows first": ((ROWS, COLUMNS, 1), np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])),
    "height first": ((1, COLUMNS, ROWS), np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 1]])),
}


@pytest.mark.parametrize("how", TURNED)
def test_slices_however_they_are_stored(how, tmp_path):
    record, table = write(tmp_path / "scan", [None], *TURNED[how], None)
    (region,) = table.itertuples()
    assert (region.side, np.isnan(region.x_mni), region.area_mm2) == ("L", True, record["voxels"])
    assert off(tmp_path / "scan", region) < 1e-3
