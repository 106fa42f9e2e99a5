"""The page of a run: one file with all that it promises, whatever the names are, and from runs that left less."""

from __future__ import annotations

import base64
import html.parser
import io
import json

import pytest
from PIL import Image

from acmix_ms.engine import report, run_dir
from acmix_ms.engine.metrics import Accuracy
from acmix_ms.errors import UserError
from acmix_ms.files import write_text
from scripts import report as report_script

EVIL = '<script>alert("x")</script> & co'


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: pictures, text, tags, and the attributes that load something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.pictures, self.loads, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if tag == "img" and name == "src" and value.startswith("data:image/png;base64,"):
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))))
            elif name in ("src", "href", "srcset", "action") or name.startswith("on"):
                self.loads.append((tag, name, value))

    def handle_data(self, data):
        self.texts.append(data)

    def text(self):
        return " | ".join(text.strip() for text in self.texts if text.strip())


def scores_of(count):
    """Class i is right in i percent of the cases."""
    return [
        {"name": f"class {i}", "images": 100, "top1": float(i), "top5": 90.0, "confusions": [[EVIL, 100 - i]]}
        for i in reversed(range(count))
    ]


@pytest.fixture
def run(tmp_path):
    """A folder as training leaves it, with twelve epochs, two layers and thirteen classes."""
    folder = tmp_path / "a <b>run"
    folder.mkdir()
    header = "epoch,step,train_loss,lr,img_per_s,val_loss,val_top1,val_top5"
    rows = [f"{e},{11 * e},{2 / e:.6g},0.1,180,{2.5 / e:.6g},{50 + e},99" for e in range(1, 13)]
    (folder / run_dir.LOG).write_text("\n".join([header, *rows]) + "\n")
    rates = [
        f"{e},{layer},{sign * 0.01 * e:.6g},0.5" for e in range(1, 13) for layer, sign in (("one", 1), ("two", -1))
    ]
    (folder / run_dir.RATES).write_text("\n".join(["epoch,layer,alpha,beta", *rates]) + "\n")
    (folder / run_dir.CONFIG).write_text(f"model:\n  name: {EVIL}\n")
    (folder / run_dir.ENVIRONMENT).write_text(json.dumps({"MindSpore": "2.8.0", "device": "CPU, 1 process(es)"}))
    classes = [*scores_of(12), {"name": "unseen", "images": 0, "top1": None}]
    tables = Accuracy.tables({"top1": 62, "top5": 90, "classes": classes})
    best = {"epoch": 12, "told": "top-1 62.00 %", "tables": tables}
    best["curves"] = {"labels": {"val_top1": "top-1 (%)"}, "higher_is_better": True}
    (folder / run_dir.BEST_SCORES).write_text(json.dumps(best))
    (folder / run_dir.BEST).write_bytes(b"x" * 1_500_000)
    return folder


def test_the_page_is_one_file_with_everything(run):
    before = {path.name for path in run.iterdir()}
    path = report.write(run)
    assert {path.name for path in run.iterdir()} == before | {run_dir.REPORT}
    page = Page(path.read_text(encoding="utf-8"))
    assert [picture.format for picture in page.pictures] == ["PNG", "PNG"]
    assert all(picture.size[0] == 1260 for picture in page.pictures)
    assert page.loads == [], "nothing is loaded"
    assert "script" not in page.tags
    assert "b" not in page.tags
    text = page.text()
    assert text.count(EVIL) == 11, "ten confusions and the configuration, as they are called"
    assert "12 epochs, 132 steps. Best checkpoint: best.ckpt (1.5 MB), top-1 62.00 % after epoch 12." in text
    assert "MindSpore | 2.8.0" in text
    assert "a <b>run" in text
    assert "one | 0.120 | 0.500" in text
    assert "two | 0.120 | 0.500" in text
    assert "3 | 33 | 0.666667" in text
    assert "2 | 22 | 1 |" not in text, "the ten last epochs"


def test_the_worst_classes_stand_first(run):
    text = Page(report.write(run).read_text(encoding="utf-8")).text()
    places = [text.index(f"class {i} | 100 | {i}.00 | 90.00 | {EVIL} ({100 - i})") for i in range(10)]
    assert places == sorted(places)
    assert "class 10 |" not in text
    assert "unseen" not in text
    assert "Worst classes of 12" in text


def test_a_run_of_an_earlier_version_has_a_shorter_page(run):
    for name in (run_dir.RATES, run_dir.ENVIRONMENT, run_dir.BEST_SCORES):
        (run / name).unlink()
    page = Page(report.write(run).read_text(encoding="utf-8"))
    assert len(page.pictures) == 1
    assert "Worst classes" not in page.text()
    assert "12 epochs, 132 steps." in page.text()


def test_names_that_are_no_text_do_not_stop_the_page(run):
    classes = [{**scores_of(1)[0], "name": "caf\udce9"}]  # not UTF-8, of a folder
    write_text(run / run_dir.BEST_SCORES, json.dumps({"tables": Accuracy.tables({"top1": 1, "classes": classes})}))
    assert "caf? | 100" in Page(report.write(run).read_text(encoding="utf-8")).text()


def test_runs_without_a_page_are_named(run, tmp_path, capsys):
    report_script.main([str(run)])
    assert capsys.readouterr().out == f"written: {run / 'report.html'}\n"
    with pytest.raises(UserError, match="none: no such folder"):
        report_script.main([str(tmp_path / "none")])
    (run / run_dir.BEST_SCORES).write_text('{"epoch": ')
    with pytest.raises(UserError, match=r"best\.json is damaged"):
        report_script.main([str(run)])
    (run / run_dir.LOG).unlink()
    with pytest.raises(UserError, match=r"holds no log\.csv with an epoch"):
        report_script.main([str(run)])
