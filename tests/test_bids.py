"""A BIDS data set in, BIDS derivatives out: names by the rules of BIDS's own schema, and one table and page whether
the data set was run as a whole or in jobs that share its subjects, at the same time.
"""

import hashlib
import json
import re
import shutil
import subprocess
import time
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from bidsschematools.rules import regexify_filename_rules
from bidsschematools.schema import load_schema
from helpers import AUTODDPM, environment, run
from typer.testing import CliRunner

from autoddpm.cli import app
from autoddpm.phantom import head_phantom, to_native
from autoddpm.scans import page, preprocess
from autoddpm.scans.corpus import make_head, save_head

SCANS = [f"sub-{s}/ses-{v}/anat/sub-{s}_ses-{v}" for s in ("01", "02") for v in ("a", "b")]


def save_tree(root: Path) -> Path:
    "Two subjects with two sessions, one of them with two runs; a volume first, then slices, which take less time."
    save_head(root / f"{SCANS[0]}_T1w.nii.gz", (3000 * make_head(1)).astype(np.int16))
    for k, name in enumerate((f"{SCANS[1]}_run-1", f"{SCANS[1]}_run-2", *SCANS[2:])):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        plane = (255 * to_native(head_phantom(k)[0])[0].numpy()).astype(np.uint8)
        nib.save(nib.Nifti1Image(plane[::-1].T, np.eye(4)), root / f"{name}_T1w.nii.gz")
    shutil.copy(root / f"{SCANS[0]}_T1w.nii.gz", root / f"{SCANS[0]}_T2w.nii.gz")
    about = dict(Name="Made-up heads", BIDSVersion="1.10.0")
    (root / "dataset_description.json").write_text(json.dumps(about), encoding="utf-8")
    (root / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n", encoding="utf-8")
    return root


def contents(out: Path) -> dict:
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock")
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return save_tree(tmp_path_factory.mktemp("bids") / "heads")


@pytest.fixture(scope="module")
def whole(tree) -> Path:
    done = run([*AUTODDPM, "detect", tree, "--out", tree.parent / "whole"])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr  # no progress where nobody watches
    assert "5 of 5 scans done" in done.stdout and "scores.tsv" in done.stdout
    return tree.parent / "whole"


def test_jobs_at_the_same_time_give_the_table_and_the_page_of_one_run(tree, whole):
    out = tree.parent / "jobs"
    calls = [["--participant-label", "01"], ["--participant_label", "sub-02", "--quiet"]]
    jobs = [
        subprocess.Popen([*AUTODDPM, "detect", tree, out, "participant", *more], env=environment(), text=True)
        for more in calls
    ]
    assert [job.wait() for job in jobs] == [0, 0]
    assert contents(out) == contents(whole)
    table = pd.read_csv(out / "scores.tsv", sep="\t", dtype={"session_id": str})
    assert list(table.participant_id) == ["sub-01"] * 3 + ["sub-02"] * 2
    assert list(table.session_id) == ["ses-a", "ses-b", "ses-b", "ses-a", "ses-b"]
    assert table.path[1] == f"{SCANS[1]}_run-1_T1w.nii.gz" and table.folder[1] == "sub-01/ses-b/anat"
    clusters = pd.read_csv(out / "clusters.tsv", sep="\t")
    assert clusters.groupby("id").size().to_dict() == table.set_index("id").clusters[lambda n: n > 0].to_dict()


def test_labels_choose_what_is_done(tree, tmp_path):
    both = ["--participant-label", "sub-01", "02", "--session-label", "b", "--dry-run"]
    for words in ([tree, tmp_path / "out", *both], [*both, "--", tree, tmp_path / "out", "participant"]):
        done = CliRunner().invoke(app, ["detect", *map(str, words)])
        assert done.exit_code == 0 and re.findall(r"to do +(\S+)", done.output) == [
            *(f"sub-01_ses-b_run-{k}_T1w" for k in (1, 2)),
            "sub-02_ses-b_T1w",
        ]
    for words, said in (
        (["--participant-label", "01", "3"], "sub-3: no scan of that label in the data set; there are sub-01, sub-02"),
        (["--session-label", "c"], "ses-c: no scan of that label"),
        (["group"], "group: give participant"),
    ):
        done = CliRunner().invoke(app, ["detect", str(tree), str(tmp_path / "out"), *words])
        assert (done.exit_code, done.output.count("\n")) == (2, 1) and said in done.output, done.output
    assert not list(tmp_path.iterdir())


def test_names_are_those_of_bids(whole):
    schema, ignored = load_schema(), (whole / ".bidsignore").read_text().split()
    rules = schema.rules.files
    regexes = [
        rule["regex"]
        for group in (rules.common, rules.raw, rules.deriv)
        for rule in regexify_filename_rules(group, schema, level=2)
    ]
    paths = [p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file() and p.name[0] != "."]
    images = [path for path in paths if path.endswith(".nii.gz")]
    assert len(images) == 9 + 4 * 4 and not any(fnmatch(path, pattern) for path in images for pattern in ignored)
    for path in paths:
        fits = any(re.fullmatch(regex, path) for regex in regexes)
        assert fits != any(fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in ignored), path
    about = json.loads((whole / "dataset_description.json").read_text(encoding="utf-8"))
    required = {"Name", "BIDSVersion", "DatasetType", "GeneratedBy", "SourceDatasets"}
    assert required == {*about} and about["DatasetType"] == "derivative"
    assert about["GeneratedBy"][0]["Chain"]["method"] == "autoddpm-coarse"


def test_sidecars_and_images_say_what_they_are(whole):
    prefix = whole / SCANS[0]
    for kind in ("space-orig", "space-MNI152NLin2009aSym"):
        image = nib.load(f"{prefix}_{kind}_desc-anomaly_probseg.nii.gz")
        about = json.loads(Path(f"{prefix}_{kind}_desc-anomaly_probseg.json").read_text(encoding="utf-8"))
        assert {"Units", "Range", "Weights", "Chain", "SpatialReference", "SlabThickness"} <= {*about}
        assert image.get_fdata().max() > 0 and b"AutoDDPM anomaly map" in bytes(image.header["descrip"])


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if (link := dict(attrs).get("href") or "#")[0] != "#":
            self.found.append(unquote(link))


def links(path: Path, text: str = "") -> list:
    reader = Links()
    reader.feed(text or path.read_text(encoding="utf-8"))
    return [path.parent / link for link in reader.found]


def test_links_lead_to_files(whole):
    pages = [whole / "report.html", *whole.rglob("*_report.html")]
    assert len(pages) == 6 and all(link.is_file() for path in pages for link in links(path))
    own = links(Path(f"{whole / SCANS[0]}_desc-anomaly_report.html"))
    assert sum(link.name.endswith(".nii.gz") for link in own) == 9


def test_five_hundred_scans_on_a_page(whole):
    facts, table = page._read_results(whole)
    many = pd.concat([table] * 100, ignore_index=True)
    start = time.perf_counter()
    text = page._page(facts, many, page._rows(many, whole, facts["threshold"], 20))
    assert time.perf_counter() - start < 20 and len(text) < 20 * 600_000
    found = links(whole / "report.html", text)
    assert sum(link.name.endswith("_report.html") for link in found) == 520 and all(
        link.is_file() for link in set(found)
    )


def test_a_survey_ends_as_the_run_would(tree, whole, tmp_path):
    raw = shutil.copytree(tree, tmp_path / "raw")
    cut = raw / f"{SCANS[3]}_T1w.nii.gz"
    cut.write_bytes(cut.read_bytes()[:5000])
    (raw / f"{SCANS[3]}_T1w.mgz").write_text("another format")
    words = ["detect", str(raw), "--out", str(tmp_path / "out"), "--participant-label", "02"]
    survey = CliRunner().invoke(app, [*words, "--dry-run"])
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, words)
    reasons = pd.read_csv(tmp_path / "out" / "scores.tsv", sep="\t", keep_default_na=False).reason
    assert survey.exit_code == done.exit_code == 1
    assert len(reasons) == 3 and all(reason in survey.output for reason in reasons if reason != "n/a")
    assert "1 to do, 2 skipped" in survey.output and "1 T2w" in survey.output
    again = CliRunner().invoke(app, [*words, "--dry-run"])
    assert "1 done before, 2 skipped" in again.output and again.exit_code == 1
    other = CliRunner().invoke(app, [*words, "--dry-run", "--slab", "5"])
    assert other.exit_code == 2 and "slab: 0.0 there, 5.0 now" in other.output
    healthy = CliRunner().invoke(app, ["detect", str(tree), "--out", str(whole), "--dry-run"])
    assert (healthy.exit_code, "5 done before" in healthy.output) == (0, True)


def test_the_line_names_each_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "register", lambda volume: preprocess.Registration.identity())  # takes its time
    monkeypatch.setenv("AUTODDPM_PROGRESS", str(tmp_path / "line"))
    own = save_head(tmp_path / "own.nii.gz", (3000 * make_head()).astype(np.int16), code=1)
    done = CliRunner().invoke(app, ["detect", str(own), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    said = re.findall(r"left, (.*?) own", (tmp_path / "line").read_text(encoding="utf-8"))
    steps = [*dict.fromkeys(said)]
    assert steps == ["reading", "N4", "registration", *(f"denoising {k} of 10" for k in range(1, 11)), "writing"]
