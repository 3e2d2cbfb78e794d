"""The web application: the page, the JSON endpoints and the health check."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from imdbcls.errors import UserError
from imdbcls.explanations import Explanation
from imdbcls.printable import shown
from imdbcls.serving import schema
from imdbcls.serving.explaining import explain_all
from imdbcls.serving.guard import HEADERS, RETRY_AFTER, Guard
from imdbcls.serving.limits import BadTextError, Limits, require_texts
from imdbcls.serving.model_thread import BusyError, ModelThread
from imdbcls.serving.page import Page
from imdbcls.serving.runs import Answer, ServedRuns

logger = logging.getLogger(__name__)

SERVER_ERROR = "The server cannot answer: its log has the reason."
PAGE_SHARE = 0.8  # after this share of the time limit, the page shows the prediction without highlighted words

DESCRIPTION = "Classify texts with finished runs of imdbcls, and explain the predictions."
PROBLEMS: dict[int | str, dict[str, Any]] = {
    413: {"model": schema.Problem, "description": "The request is too large."},
    422: {"model": schema.Problem, "description": "A text is missing, empty, too long or invalid."},
    500: {"model": schema.Problem, "description": "The server cannot answer. Its log has the reason."},
    503: {"model": schema.Problem, "description": "Too many requests are waiting. Send the request again later."},
    504: {"model": schema.Problem, "description": "The request took too long."},
}


def create_app(runs: ServedRuns, models: ModelThread[dict[str, Answer]], limits: Limits) -> FastAPI:
    """Return the application. `models` is the thread that calls `runs.classify`."""
    # The pages /docs and /redoc of FastAPI would load scripts from the internet.
    app = FastAPI(title="imdbcls", description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, limits=limits)
    add_problems(app)
    page = Page(runs, limits)

    @app.get("/health")
    async def health(response: Response) -> schema.Health:
        """Return whether the server can answer. The status code is 503 if it cannot."""
        if not models.is_alive:
            response.status_code = 503
        return schema.Health(
            status="ok" if models.is_alive else "stopped",
            waiting=models.num_waiting,
            labels=list(runs.label_names),
            runs=runs.about(),
            limits={**asdict(limits), "body_bytes": limits.body_bytes},
        )

    @app.post("/predict", responses=PROBLEMS)
    async def predict(request: schema.PredictRequest) -> schema.PredictResponse:
        """Classify one text or several with every run."""
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        require_texts(texts, limits)
        answers = await models.classify(texts)
        return schema.PredictResponse(runs=[predictions_of(name, answers) for name in runs.by_name])

    @app.post("/explain", responses=PROBLEMS)
    async def explain(request: schema.ExplainRequest) -> schema.ExplainResponse:
        """Classify one text, and return how much each word moved the decision of every run."""
        require_texts([request.text], limits)
        require_label(request.label, runs)
        (answer,) = await models.classify([request.text])
        label = next(iter(answer.values())).label if request.label is None else request.label
        found = await explain_all(models, runs, request.text, label)
        return schema.ExplainResponse(
            label=label, runs=[explanation_of(name, answer[name], found[name]) for name in runs.by_name]
        )

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def form() -> HTMLResponse:
        return page.form()

    @app.post("/", response_class=HTMLResponse, include_in_schema=False)
    async def submitted(request: Request) -> HTMLResponse:
        """Answer the form of the page, which works without JavaScript."""
        fields = parse_qs((await request.body()).decode("utf-8", errors="replace"), keep_blank_values=True)
        text = fields.get("text", [""])[0].replace("\r\n", "\n")  # browsers send line ends as CRLF
        wants_words = "words" in fields
        found: Mapping[str, Explanation] = {}
        note = ""
        try:
            require_texts([text], limits)
            (answer,) = await models.classify([text])
        except BadTextError as error:
            return page.problem(text, wants_words, str(error), status=422)
        except BusyError as error:
            return page.problem(text, wants_words, str(error), status=503, headers=RETRY_AFTER)
        except UserError as error:
            logger.error(str(error))
            return page.problem(text, wants_words, SERVER_ERROR, status=500)
        label = next(iter(answer.values())).label
        if wants_words:
            try:
                async with asyncio.timeout(PAGE_SHARE * limits.seconds):
                    found = await explain_all(models, runs, text, label)
            except BusyError as error:
                note = str(error)
            except UserError as error:
                logger.error(str(error))
                note = "The words cannot be highlighted. The log of the server has the reason."
            except TimeoutError:
                note = "Highlighting the words took too long. Try a shorter text."
        return page.answer(text, wants_words, answer, label, found, note)

    return app


def predictions_of(name: str, answers: Sequence[dict[str, Answer]]) -> schema.RunPredictions:
    return schema.RunPredictions(
        run=name, predictions=[schema.Prediction(**asdict(answer[name])) for answer in answers]
    )


def explanation_of(name: str, answer: Answer, found: Explanation) -> schema.RunExplanation:
    return schema.RunExplanation(
        run=name,
        prediction=schema.Prediction(**asdict(answer)),
        words=[
            schema.Word(word=word, start=start, end=end, score=score)
            for word, (start, end), score in zip(found.words, found.spans, found.scores, strict=True)
        ],
        baseline_probabilities=dict(found.baseline_probabilities),
        completeness_error=found.completeness_error,
    )


def require_label(label: str | None, runs: ServedRuns) -> None:
    """Raise BadTextError if the label of a request is not a class of the runs."""
    if label is not None and label not in runs.label_names:
        raise BadTextError(f"{shown(label)} is not a class: choose {', '.join(runs.label_names)}.")


def add_problems(app: FastAPI) -> None:
    """Answer every error with `{"error": "<one sentence>"}`, which never repeats the text of the request."""

    async def bad_text(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    async def server_error(_: Request, error: Exception) -> JSONResponse:
        logger.error(str(error))  # the message may contain paths, which clients must not see
        return JSONResponse({"error": SERVER_ERROR}, 500)

    async def busy(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, RETRY_AFTER)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        deepest = max(error.errors(), key=lambda each: len(each["loc"]))
        place = ".".join(str(part) for part in deepest["loc"][1:] if part not in ("str", "list[str]")) or "body"
        sentence = f"The JSON of the request is not valid: {shown(place)}: {deepest['msg']}."
        return JSONResponse({"error": sentence}, 422)

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # Starlette sends this response outside the middleware, so `Guard` adds no headers to it.
        return JSONResponse({"error": "Unexpected error: the log of the server has a traceback."}, 500, HEADERS)

    app.add_exception_handler(BadTextError, bad_text)
    app.add_exception_handler(UserError, server_error)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(AnyHTTPException, http)
    app.add_exception_handler(Exception, unexpected)
