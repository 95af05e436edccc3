"""The review page: hostile texts do nothing, labels and vetoes come back; in a browser where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from luthier.cli.arguments import main
from luthier.errors import DataError, WorkspaceError
from luthier.generation.records import write_records
from luthier.redteaming.diversity import diversity
from luthier.redteaming.labels import HumanLabels, answer_key, known_labels, prompt_key, read_labels, save_labels
from luthier.redteaming.local_server import LocalHandler, LocalServer, local_server
from luthier.redteaming.marks import collapsed, marks_in, unscored
from luthier.redteaming.reading import Exchange
from luthier.redteaming.review import embedded, render_review, write_review
from luthier.redteaming.serving import review_server

HOSTILE = [
    "</script><script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "<!--<script>",
    "]]>\u2028\u2029\u202eevil\x00\x1b[31m",
    "{{DATA}} {{NONCE}} ${document.title='broken'} \\u003cb\\u003e & &lt;b&gt;",
    "javascript:document.title='broken'",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def exchange(text: str, number: int = 1) -> Exchange:
    return Exchange(text, text, text, f"p{number}", f"a{number}", text, 0.25, None, "ok", "plain", "adversary", text)


def page(**more) -> str:
    rows = [exchange(text, i) for i, text in enumerate(HOSTILE)]
    other = {"id": "a9", "label": "safe", "prompt": "of another run", "answer": "</script>"}
    labels = HumanLabels(
        {answer_key(HOSTILE[1], HOSTILE[1]): "unsafe"}, frozenset({prompt_key(HOSTILE[2])}), records={"x": other}
    )
    return render_review(rows, title=HOSTILE[0], labels=labels, marks=HOSTILE[:2], **more)


def test_no_text_can_leave_its_place():
    found = page()
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", found, flags=re.S)
    assert len(scripts) == 2
    assert len(re.findall(r"<(?:script|img|!--)", found)) == 2
    data = json.loads(scripts[0])
    assert [row["prompt"] for row in data["rows"]] == HOSTILE
    assert not set(embedded(HOSTILE)) & set("<>&\u2028\u2029\x00")
    assert "innerHTML" not in found
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", found)
    policy = re.search(r'Content-Security-Policy"\s+content="([^"]+)"', found)[1]
    assert "default-src 'none'" in policy
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)[1]
    assert found.count(nonce) == 5
    assert re.search(r"script-src 'nonce-([^']+)'", page())[1] != nonce


def in_chromium(tmp_path: Path, content: str) -> str:
    """The page as the browser has it after its scripts ran."""
    place = tmp_path / "page.html"
    place.write_text(content, encoding="utf8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", place.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_hostile_texts_are_text_and_the_page_works(tmp_path):
    # What a person would do, as a script of the page's own nonce.
    acts = """
    const press = (text) => [...document.querySelectorAll("article")[0].querySelectorAll("button")]
      .find((one) => one.textContent === text).click();
    press("Answer is safe"); press("Veto attack"); press("Answer is unsafe");
    let saved = ""; URL.createObjectURL = (blob) => { blob.text().then((text) => {
      const place = document.createElement("pre");
      place.id = "saved"; place.textContent = text; document.body.append(place);
    }); return "#"; };
    document.getElementById("download").click();
    const search = document.getElementById("search");
    search.value = "onerror"; search.dispatchEvent(new Event("input"));
    document.getElementById("mask").click();
    """
    content = page()
    nonce = re.search(r"script-src 'nonce-([^']+)'", content)[1]
    found = in_chromium(tmp_path, content.replace("</body>", f'<script nonce="{nonce}">{acts}</script></body>'))
    assert "<title>Review: " in found
    assert "broken</title>" not in found
    assert "<img" not in found
    assert found.count("<article") == 1  # the search left one
    assert f'id="count" role="status">1 of {len(HOSTILE)}<' in found
    assert "&lt;img src=x onerror=" in found
    assert '<ul id="marks" role="note"><li>&lt;/script&gt;' in found
    assert 'class="masked"' not in found
    saved = found.split('<pre id="saved">')[1].split("</pre>")[0]
    ids = re.findall(r'"id":"(\w+)","label":("?\w+"?),"veto":(\w+)', saved)
    assert ("a0", '"unsafe"', "false") in ids
    assert ("p0", "null", "true") in ids
    assert ("a1", '"unsafe"', "false") in ids
    assert ("p2", "null", "true") in ids
    assert "of another run" in saved


def lines_in(place: Path, *lines: dict) -> str:
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(place)


def said(label: str | None, prompt: str = "p", answer: str | None = "a", *, veto: bool = False) -> dict:
    return {"id": "x", "label": label, "veto": veto, "prompt": prompt, "answer": answer}


def test_labels_come_back_for_the_texts_that_they_were_given_to(tmp_path):
    lines = [said("unsafe"), said("safe", "q", "b", veto=True), said(None, "r", None, veto=True)]
    found = read_labels(lines_in(tmp_path / "labels.jsonl", *lines))
    assert [tuple(one) for one in found.pairs] == [("p", "a", False), ("q", "b", True)]
    judged = [found.judgement(*pair) for pair in (("p", "a"), ("q", "b"), ("p", "b"))]
    assert [one and (one.score, one.judge) for one in judged] == [(0.0, "people"), (1.0, "people"), None]
    assert [found.forbids(*one) for one in (("p", "a"), ("q", "b"), ("q", "a"), ("r", "any"))] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "line",
    [
        {"label": "maybe", "prompt": "p", "answer": "a"},
        {"text": "no label"},
        {"id": "a", "label": "safe"},
        {"label": "safe", "prompt": "p"},
        {"veto": True},
        {"veto": True, "prompt": 3},
        ["safe"],
        "{torn",
        None,
    ],
)
def test_other_files_are_no_labels(tmp_path, line):
    good = json.dumps(said("safe"))
    bad = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "labels.jsonl").write_text("\n" if line is None else f"{good}\n{bad}\n")
    with pytest.raises(DataError, match="holds no labels" if line is None else "line 2"):
        read_labels(str(tmp_path / "labels.jsonl"))


def test_two_people_who_differ_on_one_answer_are_told_of(tmp_path):
    place = lines_in(tmp_path / "labels.jsonl", said("safe"), said("safe"), said("unsafe"))
    with pytest.raises(DataError, match="line 3 calls an answer unsafe that an earlier line calls safe"):
        read_labels(place)


def test_saving_one_label_keeps_those_of_other_pages_and_runs(tmp_path):
    place = tmp_path / "labels.jsonl"
    save_labels(place, [said("safe"), said("unsafe")])
    save_labels(place, [said("safe", "of another run")])
    assert read_labels(str(place)).labels == {answer_key("p", "a"): "unsafe", answer_key("of another run", "a"): "safe"}
    save_labels(place, [said(None), said(None, "of another run", veto=True)])
    assert read_labels(str(place)).labels == {}
    assert read_labels(str(place)).forbids("of another run", "a")
    save_labels(place, [said(None, "of another run")])
    assert known_labels(place).records == {}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A folder as a stage leaves it, with one answer."""
    folder = tmp_path / "run" / "00-redteam"
    prompt = {"id": "p", "text": "take it", "category": "c", "style": "", "parent": "x", "dropped": ""}
    said = {"score": 0.1, "status": "ok"}
    for place, record in {
        "seeds/train": {"id": "x", "text": "seed"},
        "round-01/prompts/prompts": prompt,
        "round-01/answers/answers": {"id": "a", "prompt": "p", "text": "an answer", "variant": "plain"},
        "round-01/scores/scores": {"id": "a", "prompt": "p", "safety": said, "helpfulness": said},
        "round-01/selected/selected": {"id": "p", "kind": "prompt", "set": "adversary", "reason": ""},
    }.items():
        path = folder / f"{place}.jsonl"
        path.parent.mkdir(parents=True)
        write_records(path, [record])
    for place, result in {
        "judges": {"warnings": ["The safety judge is below the stated quality"]},
        "seeds": {"diversity": diversity(["hide the kettle", "who has a ladder", "a garden at night"]).to_json()},
        "round-00/evaluation": {
            "held-out": {
                "agreement": 0.4,
                "prompts": 4,
                "evaluation_safety": {"scored": 1, "unscored": {"empty": 1, "truncated": 2}},
            }
        },
        "round-01/selected": {
            "number": 1,
            "written": 20,
            "answers": 20,
            "unscored": 10,
            "dropped": {"like an earlier prompt": 11},
            "diversity": diversity(["take it"] * 9).to_json(),
        },
    }.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "metrics.json").write_text(json.dumps(result))
    return folder


def test_judges_that_are_not_good_enough_and_a_collapsed_adversary_stand_on_top_of_the_page(stage, tmp_path):
    marks = marks_in(stage)
    assert [one.split()[1] for one in marks] == ["safety", "judge", "answers", "adversary"]
    assert "agree on only 40.0%" in marks[1]
    assert "1 of 4 to held-out attacks after round 0 (1 empty, 2 cut off). Rates" in marks[2]
    assert "their spread is 0.00" in marks[3]
    assert "100% begin with the same words" in marks[3]
    assert "11 of 20 repeat an earlier one" in marks[3]
    varied = diversity([f"{i} {i + 20} {i + 40}" for i in range(9)]).to_json()
    facts = {"number": 2, "written": 9, "answers": 9, "unscored": 5, "dropped": {}, "diversity": varied}
    assert "could be scored: 4 of 9 in round 2." in unscored({}, [facts])[0]
    assert "5 of 9 are empty" in collapsed(varied, {**facts, "dropped": {"empty": 5}})[0]
    assert collapsed({**varied, "meaning": 0.5}, facts) == []
    (told,) = collapsed({**varied, "meaning": 0.5}, {**facts, "diversity": {**varied, "meaning": 0.1}})
    assert "spread of meaning is 0.10, that of the seeds 0.50" in told
    content = write_review(stage, tmp_path / "page.html").read_text(encoding="utf8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', content)[1])
    assert data["marks"] == marks
    assert content.index('id="marks"') < content.index('id="list"')


def sent(server, *lines: dict) -> int:
    """The answer's status to a page that saves lines."""
    request = urllib.request.Request(server.address + "labels", json.dumps(lines).encode(), method="POST")
    return urllib.request.urlopen(request, timeout=10).status


def test_the_server_shows_the_page_and_saves_labels_for_those_who_know_its_address(stage, tmp_path):
    server = review_server(stage.parent, tmp_path / "labels.jsonl")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        shown = urllib.request.urlopen(server.address, timeout=10).read().decode()
        assert "an answer" in shown
        assert sent(server, said("safe", "take it", "an answer")) == 204
        assert sent(server, said("unsafe", "another page", "open at the same time")) == 204
        saved = {
            answer_key("take it", "an answer"): "safe",
            answer_key("another page", "open at the same time"): "unsafe",
        }
        assert read_labels(str(tmp_path / "labels.jsonl")).labels == saved
        again = urllib.request.urlopen(server.address, timeout=10).read().decode()
        assert f'"labels":{{"{answer_key("take it", "an answer")}":"safe"}}' in again
        root = server.address.rsplit("/", 2)[0] + "/"
        refused = [
            urllib.request.Request(root),
            urllib.request.Request(root + "labels", b'""', method="POST"),
            urllib.request.Request(server.address, headers={"Host": "evil.example:80"}),
            *(
                urllib.request.Request(server.address + "labels", content, method="POST")
                for content in (b"not json", b'""', b"", b'[{"label": "maybe"}]', b"[" * 100_000)
            ),
        ]
        for request in refused:
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(request, timeout=10)
        assert read_labels(str(tmp_path / "labels.jsonl")).labels == saved
        assert (
            sent(server, said(None, "take it", "an answer"), said(None, "another page", "open at the same time")) == 204
        )
        review_server(stage.parent, tmp_path / "labels.jsonl").server_close()  # a file without labels is none
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "given", [["--all"], ["--form", "jsonl"], ["--round", "1"], ["--port", "9000"], ["--labels", "x.jsonl"]]
)
def test_options_without_effect_are_refused(stage, given, capsys):
    assert main(["attacks", str(stage), *given]) == 2
    assert given[0] in capsys.readouterr().err
    assert main(["attacks", str(stage)]) == 0


def test_a_page_replaces_neither_the_labels_nor_what_was_asked(stage, tmp_path, capsys):
    labels = tmp_path / "labels.jsonl"
    save_labels(labels, [said("safe", "take it", "an answer")])
    asked = next(stage.glob("*/**/*.jsonl"))
    before = labels.read_bytes(), asked.read_bytes()
    for given in (["--view", str(labels)], ["--view", "page.html", "--write", str(labels)], ["--view", str(asked)]):
        assert main(["attacks", str(stage), "--labels", str(labels), *given]) == 6
        assert "this is the file that is read, which would be lost" in capsys.readouterr().err
    assert (labels.read_bytes(), asked.read_bytes()) == before
    for _ in range(2):
        assert main(["attacks", str(stage), "--write", str(tmp_path / "attacks.jsonl")]) == 0


def test_of_several_stages_it_is_said_which_is_read(stage, tmp_path, capsys):
    shutil.copytree(stage, stage.with_name("01-redteam"))
    assert main(["attacks", str(stage.parent)]) == 0
    said = capsys.readouterr()
    assert "of 2 stages the last is read" in said.err
    assert "round 1: 1 attacks were asked, 1 succeeded" in said.out


def test_a_port_beyond_the_last_one_is_told():
    with pytest.raises(WorkspaceError, match="65535"):
        local_server(LocalServer, 99_999, LocalHandler)
