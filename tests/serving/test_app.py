"""The JSON endpoints and the page give the run's predictions, keep their limits, and never return texts as markup."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient, Response
from support.limits import HANG_SECONDS

import imdbcls
from imdbcls.explanations import explain
from imdbcls.explanations.mean import mean_explanation
from imdbcls.serving.app import SERVER_ERROR, create_app
from imdbcls.serving.limits import Limits
from imdbcls.serving.model_thread import ModelThread
from imdbcls.serving.runs import Answer, ServedRuns, load_models

TEXTS = ["A quiet, patient film.", "Two hours, \u201clost\u201d. \U0001f3ac\u0301 \u202e\u00e9t\u00e9", "word " * 300]
LIMITS = Limits(texts=8, characters=2000, wait_ms=1, seconds=HANG_SECONDS)
HOSTILE = '</textarea><script>alert(1)</script> & "quoted" film'


class Server:
    """The application with real runs, in this process."""

    def __init__(self, runs: ServedRuns, limits: Limits = LIMITS) -> None:
        self.runs = runs
        self.models = ModelThread(runs.classify, limits)
        self.app = create_app(runs, self.models, limits)
        self.client = TestClient(self.app)

    def post(self, path: str, value: Any) -> Response:
        return self.client.post(path, json=value)

    def error(self, path: str, value: Any, status: int) -> str:
        """Return the error message of an answer, which must contain nothing else."""
        answer = self.post(path, value)
        assert answer.status_code == status and list(answer.json()) == ["error"], answer.text
        return answer.json()["error"]


@pytest.fixture(scope="module")
def server(finished: Path, second: Path) -> Iterator[Server]:
    found = Server(load_models([finished, second]))
    yield found
    assert found.models.stop(30)


def test_predict_returns_the_calibrated_probabilities_of_every_run(server: Server) -> None:
    found = server.post("/predict", {"texts": TEXTS}).json()["runs"]
    assert [each["run"] for each in found] == list(server.runs.by_name)
    for each, run in zip(found, server.runs.by_name.values(), strict=True):
        expected = run.predict(TEXTS, calibrated=True)
        assert expected.tokens is not None
        for row, prediction in enumerate(each["predictions"]):
            by_class = dict(zip(run.label_names, expected.known_probabilities[row], strict=True))
            assert prediction["probabilities"] == pytest.approx(by_class, abs=1e-6)
            assert prediction["label"] == expected.names[row] and prediction["tokens"] == expected.tokens[row]
        assert [prediction["truncated"] for prediction in each["predictions"]] == [False, False, True]
        assert each["predictions"][2]["tokens_read"] == run.config.max_length


def test_one_text_is_like_a_list_of_one(server: Server) -> None:
    one, several = (server.post("/predict", {"texts": texts}).json() for texts in (TEXTS[0], TEXTS[:1]))
    assert one == several


def test_explain_returns_the_words_of_every_run_for_one_class(server: Server) -> None:
    text = TEXTS[0]
    answer = server.post("/explain", {"text": text, "label": "negative"}).json()
    assert answer["label"] == "negative"
    for each, run in zip(answer["runs"], server.runs.by_name.values(), strict=True):
        expected = explain(run, text, "negative")
        assert [word["word"] for word in each["words"]] == list(expected.words)
        assert [word["score"] for word in each["words"]] == pytest.approx(expected.scores, abs=1e-6)
        assert all(text[word["start"] : word["end"]] == word["word"] for word in each["words"])
        assert each["prediction"]["label"] == run.predict([text]).names[0]
    chosen = server.post("/explain", {"text": text}).json()
    assert chosen["label"] == chosen["runs"][0]["prediction"]["label"]
    assert "neutral" in server.error("/explain", {"text": text, "label": "neutral"}, 422)


def test_ensemble_answers_with_the_mean_next_to_a_run(finished: Path, second: Path) -> None:
    server = Server(load_models([finished], [[finished, second]]))
    ensemble, text = imdbcls.load_ensemble([finished, second]), TEXTS[0]
    name = "demo/lstm, other/weight_avg (mean of 2 runs)"
    assert list(server.runs.by_name)[1] == name
    found = server.post("/predict", {"texts": TEXTS}).json()["runs"][1]
    expected = ensemble.predict(TEXTS)
    for prediction, label, row_C in zip(
        found["predictions"], expected.names, expected.known_probabilities, strict=True
    ):
        assert prediction["label"] == label
        assert list(prediction["probabilities"].values()) == pytest.approx(row_C.tolist(), abs=1e-6)

    answer = server.post("/explain", {"text": text, "label": "negative"}).json()["runs"][1]
    parts = [(explain(run, text, "negative"), run.temperature) for run in ensemble.runs]
    mean = np.mean([np.array(part.scores) / temperature for part, temperature in parts], axis=0)
    assert [word["score"] for word in answer["words"]] == pytest.approx(mean.tolist(), abs=1e-6)
    no_words = np.mean([part.baseline_probabilities["negative"] for part, _ in parts])
    assert answer["baseline_probabilities"]["negative"] == pytest.approx(no_words, abs=1e-6)
    whole = explain(ensemble, text)
    assert whole.label == whole.target == ensemble.predict([text]).names[0] and whole.is_complete
    assert whole.probabilities[whole.label] == pytest.approx(
        ensemble.predict([text]).known_probabilities.max(), abs=1e-3
    )

    members = server.client.get("/health").json()["runs"][1]["members"]
    assert [member["head"] for member in members] == ["lstm", "weight_avg"]
    page = server.client.post("/", data={"text": text, "words": "on"}).text
    assert f">{name}</h3>" in page and "lstm on tiny, weight_avg on tiny · test accuracy of its runs" in page
    temperatures = ", ".join(f"{run.temperature:.3g}" for run in ensemble.runs)
    assert f"calibrated with the temperatures {temperatures} of its runs" in page
    assert server.models.stop(30)


def test_ensemble_of_runs_that_read_other_words_is_not_explained(server: Server) -> None:
    explanation = explain(next(iter(server.runs.by_name.values())), TEXTS[0], "negative")
    other = replace(explanation, spans=explanation.spans[:-1], scores=explanation.scores[:-1])
    with pytest.raises(imdbcls.UserError, match="a and b do not read the same words of the text"):
        mean_explanation([explanation, other], [1, 1], ["a", "b"])


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"texts": ["fine", " \n\t"]}, "Text 2 is empty: send at least one character that is not white space."),
        ({"texts": ""}, "The text is empty"),
        ({"texts": []}, "The request has 0 texts: send 1 to 8 texts."),
        ({"texts": ["a"] * 9}, "The request has 9 texts: send 1 to 8 texts."),
        ({"texts": ["a", "x" * 2001]}, "Text 2 has 2,001 characters, and the limit is 2,000: shorten it."),
        ({"texts": ["secret", 5]}, "The JSON of the request is not valid: texts.1: Input should be a valid string."),
        ({"texts": "secret", "other": 1}, "The JSON of the request is not valid: other: "),
        ({"text": "secret"}, "The JSON of the request is not valid: texts: Field required."),
        ([], "The JSON of the request is not valid: body: "),
    ],
)
def test_wrong_requests_get_one_sentence_without_their_text(server: Server, value: Any, sentence: str) -> None:
    error = server.error("/predict", value, 422)
    assert error.startswith(sentence) and "secret" not in error


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"texts": "\\ud800"}', 422),  # half of a surrogate pair
        (b'{"texts": "\xff"}', 400),
        (b"{", 422),
        (b"[" * 20_000, 400),
        (b'{"texts": "' + b"x" * 100_000 + b'"}', 413),
    ],
)
def test_invalid_bodies_are_refused(server: Server, body: bytes, status: int) -> None:
    for path, sent in (("/predict", body), ("/explain", body.replace(b"texts", b"text"))):
        for content in (sent, iter([sent])):  # with Content-Length, and in chunks without it
            answer = server.client.post(path, content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == status and list(answer.json()) == ["error"], answer.text


def test_a_request_without_the_json_content_type_is_refused(server: Server) -> None:
    """A page of another site can send such a request without a preflight request."""
    answer = server.client.post("/predict", content=json.dumps({"texts": "a"}), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422


def test_errors_of_the_server_do_not_show_their_reason(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Any:
        raise imdbcls.UserError("/home/me/runs/a: the model's output is not finite.")

    with monkeypatch.context() as failing:
        failing.setattr("imdbcls.serving.explaining.explain", fail)
        assert server.error("/explain", {"text": "A film."}, 500) == SERVER_ERROR
        page = server.client.post("/", data={"text": "A film.", "words": "on"})
        assert page.status_code == 200 and "words cannot be highlighted" in page.text and "/home/me" not in page.text
    assert capsys.readouterr().err.count("/home/me/runs/a: the model") == 2

    models: ModelThread[dict[str, Answer]] = ModelThread(fail, LIMITS)
    client = TestClient(create_app(server.runs, models, LIMITS))
    assert client.post("/predict", json={"texts": "A film."}).json() == {"error": SERVER_ERROR}
    page = client.post("/", data={"text": "A film."})
    assert page.status_code == 500 and SERVER_ERROR in page.text
    assert models.stop(HANG_SECONDS)


def test_concurrent_requests_share_one_forward_pass(finished: Path) -> None:
    runs = load_models([finished])
    server = Server(runs, replace(LIMITS, batch=8, wait_ms=1000 * HANG_SECONDS, seconds=HANG_SECONDS))
    (run,) = runs.by_name.values()
    runs.classify(["load the model"])
    sizes: list[int] = []
    run._model.model.register_forward_hook(lambda *call: sizes.append(len(call[2])))

    async def ask() -> list[Response]:
        async with AsyncClient(transport=ASGITransport(server.app), base_url="http://test") as client:
            return await asyncio.gather(*(client.post("/predict", json={"texts": f"film {n}"}) for n in range(8)))

    answers = asyncio.run(ask())
    assert sizes == [8]
    expected = run.predict([f"film {n}" for n in range(8)]).known_probabilities[:, 0]
    found = [answer.json()["runs"][0]["predictions"][0]["probabilities"]["negative"] for answer in answers]
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    assert server.models.stop(HANG_SECONDS)


def test_a_full_queue_is_503_and_a_slow_request_is_504(finished: Path) -> None:
    runs = load_models([finished])
    limits = replace(LIMITS, batch=100, wait_ms=1000 * HANG_SECONDS, queue=2, seconds=3)
    server = Server(runs, limits)

    async def ask() -> list[Response]:
        async with AsyncClient(transport=ASGITransport(server.app), base_url="http://test") as client:
            return await asyncio.gather(*(client.post("/predict", json={"texts": "film"}) for _ in range(3)))

    answers = asyncio.run(ask())
    assert sorted(answer.status_code for answer in answers) == [503, 504, 504]
    for answer in answers:
        assert list(answer.json()) == ["error"] and answer.headers["x-content-type-options"] == "nosniff"
        assert (answer.headers.get("retry-after") == "1") == (answer.status_code == 503)
    assert server.models.stop(HANG_SECONDS)


def test_health_names_the_runs_and_limits(server: Server) -> None:
    found = server.client.get("/health").json()
    assert found["status"] == "ok" and found["waiting"] == 0 and found["labels"] == ["negative", "positive"]
    assert [run["head"] for run in found["runs"]] == ["lstm", "weight_avg"]
    assert found["limits"]["texts"] == 8 and found["limits"]["body_bytes"] == 2**16


def test_nothing_is_loaded_from_elsewhere(server: Server) -> None:
    assert server.client.get("/docs").status_code == server.client.get("/redoc").status_code == 404
    described = server.client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/health", "/predict", "/explain"}
    for answer in (server.client.get("/"), server.client.get("/health"), server.client.get("/missing")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "http" not in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    style = server.client.get("/").text.partition("<style>")[2].partition("</style>")[0]
    assert '"Bitstream Charter"' in style and "&#34;" not in style and "&gt;" not in style
    assert "http" not in server.client.get("/").text.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_page_shows_the_temperature(finished: Path, server: Server) -> None:
    for run in server.runs.by_name.values():
        assert f"calibrated with the temperature {run.temperature:.3g}" in server.client.get("/").text
    run = imdbcls.load_run(finished)
    plain = replace(run, result={**run.result, "temperature": 1.0, "temperature_reason": "there are too few documents"})
    other = Server(ServedRuns({"plain": plain}))
    assert "plain: no temperature was fitted, so the probabilities are not calibrated" in other.client.get("/").text
    assert other.models.stop(HANG_SECONDS)


def test_page_escapes_the_text_and_keeps_it(server: Server) -> None:
    for fields in ({"text": HOSTILE}, {"text": HOSTILE, "words": "on"}):
        page = server.client.post("/", data=fields).text
        assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page and page.count("</textarea>") == 1
        assert page.count("<article") == 2
        assert ("Words for and against" in page) == ("words" in fields)


def test_page_shows_a_problem_next_to_the_text(server: Server) -> None:
    answer = server.client.post("/", data={"text": "x" * 2001})
    assert answer.status_code == 422 and "and the limit is 2,000" in answer.text and "x" * 2001 in answer.text
    assert server.client.post("/", data={"text": "line\r\n" * 400}).status_code == 200, "CRLF counts as one character"
    assert server.client.post("/", content=b"\xff\xfe=%ff").status_code == 422


def test_different_classes_and_the_same_run_twice_are_refused(finished: Path, second: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(second, other)
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps({**result, "label_names": ["bad", "good"]}))
    with pytest.raises(imdbcls.UserError, match=r"has the classes negative, positive, but .* the classes bad, good"):
        load_models([finished, other])
    with pytest.raises(imdbcls.UserError, match="is given twice"):
        load_models([finished, finished.parent / ".." / finished.parent.name / finished.name])
    with pytest.raises(imdbcls.UserError, match="Both ensembles have the same runs"):
        load_models([], [[finished, second], [second, finished]])
