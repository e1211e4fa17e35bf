"""One run from its first import to its last span."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import egress, tracing
from .confinement import Confinement
from .errors import BudgetExhausted, RunStopped, UsageError
from .handover import Handover
from .history import History
from .interruption import Interruption
from .isolation import Surroundings, current_umask, give_user_mode
from .masking import Mask
from .outcomes import Outcome, causes, detail_of, is_spent_budget, outcome_of
from .output import Result, Started, Tokens, Writer
from .settings import KEYLESS, RunSettings, check_workspace
from .tools import check_mcp_servers, load_mcp_servers, make_tools, mcp_secrets, strict_mcp_provider

if TYPE_CHECKING:
    from openhands.sdk.conversation.impl.local_conversation import LocalConversation
    from openhands.sdk.event import Event

_CLOSE_SECONDS = 4.0
_HANDED_OVER = "the MCP servers on standard input"
_NO_STEP = frozenset({"ConversationStateUpdateEvent"})
_ORPHAN_REASON = (
    "The run ended while this call was under way, so its effect is unknown. "
    "Look what is there before doing it again."
)


def run(settings: RunSettings, handed_over: Handover, writer: Writer) -> NoReturn:
    """Runs the task and ends the process with the outcome's exit code.

    Raises:
        UsageError: nothing was started; the settings can't be used.
    """
    started_at = time.monotonic()
    if handed_over.llm_api_key:
        settings = settings.model_copy(update={"llm_api_key": handed_over.llm_api_key})
    writer.mask = _mask(settings, handed_over, {})
    history = History(settings.state_dir)
    message: str | None
    if settings.resume:
        asked = settings.task
        settings, task, lock = history.resume(settings)
        task = handed_over.task or task
        message = asked if asked and asked.strip() != task.strip() else None
    else:
        lock = None
        task = message = str(settings.task)
    check_workspace(settings.workspace)
    mcp = _mcp_servers(settings, handed_over)
    writer.mask = _mask(settings, handed_over, mcp)
    if lock is None:
        # Held until the process ends.
        lock = history.begin(settings)
    session = _Session(settings, handed_over, task, writer, started_at)
    try:
        with Interruption(settings.timeout, session.exit_at_once):
            # Before the walls: what holds the key is none of the agent's programs.
            _open_egress(settings)
            session.confine()
            outcome, said = session.play(history, mcp, message)
    except RunStopped as stop:
        outcome, said = stop.outcome, stop.message or session.stopped_message(stop.outcome)
    except UsageError:
        if settings.resume is None:
            history.forget(settings.id)
        raise
    session.finish(outcome, said)


def _open_egress(settings: RunSettings) -> None:
    os.environ.pop("PADDOCK_EGRESS", None)
    if settings.egress:
        key = settings.llm_api_key.get_secret_value()
        os.environ.update(egress.open_way(settings.egress, "" if key == KEYLESS else key))


def _mcp_servers(settings: RunSettings, handed_over: Handover) -> dict[str, dict[str, Any]]:
    if handed_over.mcp is not None:
        return check_mcp_servers(handed_over.mcp, _HANDED_OVER, settings.workspace)
    return load_mcp_servers(settings.mcp, settings.workspace) if settings.mcp else {}


def _mask(settings: RunSettings, handed_over: Handover, mcp: dict[str, dict[str, Any]]) -> Mask:
    """Hides the declared secrets and the key that this run has of its own."""
    key = settings.llm_api_key.get_secret_value()
    own = [] if key == KEYLESS else [key]
    return Mask([*handed_over.secret_values, *own, *mcp_secrets(mcp)])


class _Session:
    """The conversation of one run with its trace."""

    def __init__(
        self, settings: RunSettings, handed_over: Handover, task: str, writer: Writer, started_at: float
    ) -> None:
        self._settings = settings
        self._handed_over = handed_over
        self._confinement = Confinement(
            settings.landlock,
            shared=[settings.workspace, *settings.writable],
            own=[settings.state_dir],
        )
        self._task = task
        self._writer = writer
        self._started_at = started_at
        self._umask = current_umask()
        self._conversation: LocalConversation | None = None
        self._root: tracing.RootSpan | None = None
        self._delivery = tracing.Delivery(writer.mask)
        self._reported = threading.Lock()

    def confine(self) -> None:
        """Builds the walls; before anything is imported that starts a thread.

        Raises:
            UsageError: a wall that the settings require can't be had.
        """
        self._confinement.apply()

    def play(
        self, history: History, mcp: dict[str, dict[str, Any]], message: str | None
    ) -> tuple[Outcome, str]:
        """The run itself; whatever the SDK raises is an outcome, never a stack trace.

        Raises:
            RunStopped: by a signal or the wall clock.
            UsageError: something that the settings ask for is not there.
        """
        try:
            self._open(history, mcp)
            self._work(message)
            return self._end_state()
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001
            return self._failure(error)

    def _open(self, history: History, mcp: dict[str, dict[str, Any]]) -> None:
        """Imports the SDK and builds the conversation; after this a trace has begun."""
        settings = self._settings
        surroundings = Surroundings(settings.log_level, history.folder(settings.id) / "openhands")
        surroundings.close()
        os.environ.setdefault("LMNR_INSTRUMENTS", tracing.INSTRUMENTS)
        tracing.present(settings.llm_api_key.get_secret_value())
        if not any(name.endswith("_PROTOCOL") for name in os.environ if name.startswith("OTEL_")):
            # lmnr would speak gRPC, which MLflow does not take.
            os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"

        imports_at = time.monotonic()
        from openhands.sdk import LLM, Agent
        from openhands.sdk.context.condenser import default_condenser
        from openhands.sdk.conversation.impl import local_conversation

        from .storage import MaskedFileStore

        # A plugin in the workspace (.agents/plugins, .openhands/plugins) may bring hooks and MCP servers: settings that
        # the caller has not given. The SDK loads them without asking and has no switch for it.
        local_conversation.load_available_plugins = lambda **_: {}  # type: ignore[assignment]

        tools = make_tools(settings.tools, settings.log_level)
        self._confine_editor()
        import_seconds = round(time.monotonic() - imports_at, 3)
        llm = LLM(
            model=settings.model,
            base_url=settings.llm_base_url,
            api_key=settings.llm_api_key,
            usage_id="agent",
            timeout=int(settings.llm_timeout) or 1,
            num_retries=settings.llm_attempts,
            retry_min_wait=min(1, settings.llm_retry_wait),
            retry_max_wait=settings.llm_retry_wait,
            retry_multiplier=2,
            retry_listener=self._on_retry,
            max_output_tokens=settings.max_output_tokens,
        )
        agent = Agent(
            llm=llm,
            tools=tools,
            mcp_config=mcp,
            system_prompt_kwargs={"cli_mode": True},
            condenser=default_condenser(llm.model_copy(update={"usage_id": "condenser"})),
        )
        self._conversation = local_conversation.LocalConversation(
            agent=agent,
            workspace=settings.workspace,
            persistence_dir=history.runs,
            conversation_id=settings.id,
            callbacks=[self._on_event],
            max_iteration_per_run=settings.max_iterations,
            visualizer=None,
            secrets={name: value.get_secret_value() for name, value in self._handed_over.secrets.items()},
            delete_on_close=False,
            user_id=settings.user,
            file_store=MaskedFileStore(
                history.folder(settings.id), self._writer.mask, settings.max_iterations
            ),
            mcp_tool_provider=strict_mcp_provider(str(settings.mcp or _HANDED_OVER), mcp) if mcp else None,
        )
        # What the SDK hides of a tool's output are the values that it has exported, and these.
        self._conversation.state.secret_registry.track_exported_values(
            {f"paddock-{number}": form for number, form in enumerate(self._writer.mask.forms)}
        )
        open_spans = tracing.OpenSpans()
        self._root = tracing.RootSpan(self._conversation, open_spans)
        if self._root.trace_id:
            open_spans.watch()
        self._root.begin(
            task=self._task,
            run_id=str(settings.id),
            user=settings.user,
            endpoint=settings.endpoint,
            isolation=self._confinement.isolation.summary(),
            tags=settings.tags,
        )
        self._delivery.watch()
        surroundings.hide_from_tools()
        self._writer.started(
            Started(
                run_id=str(settings.id),
                trace_id=self._root.trace_id,
                endpoint=settings.endpoint,
                model=settings.model,
                workspace=str(settings.workspace),
                tools=[*settings.tools, *(f"mcp:{name}" for name in mcp)],
                max_iterations=settings.max_iterations,
                timeout_seconds=settings.timeout,
                resumed=settings.resume is not None,
                experiment_id=settings.experiment_id,
                import_seconds=import_seconds,
                isolation=self._confinement.isolation,
            )
        )
        if self._root.trace_id is None:
            self._writer.notice(
                "NO TRACE: expected a collector's address in OTEL_EXPORTER_OTLP_ENDPOINT, found none; "
                "the run goes on without a trace"
            )

    def _confine_editor(self) -> None:
        """The file editor works in this process: it is sent to where the processes of the other tools come from."""
        if "file_editor" in self._settings.tools:
            from openhands.tools.file_editor.impl import FileEditorExecutor

            FileEditorExecutor.__call__ = self._confinement.in_tools(FileEditorExecutor.__call__)  # type: ignore[method-assign]

    def _work(self, message: str | None) -> None:
        """Sends the message, if any, and lets the agent work until it ends."""
        conversation = self._the_conversation()
        if self._settings.resume:
            self._take_up(conversation)
        if message is None and not any(event.source == "user" for event in conversation.state.events):
            message = self._task
        if message is not None:
            conversation.send_message(message)
        conversation.run()

    def _end_state(self) -> tuple[Outcome, str]:
        """The outcome and the last words of a conversation whose `run` returned."""
        from openhands.sdk.conversation.response_utils import get_agent_final_response
        from openhands.sdk.conversation.state import ConversationExecutionStatus as Status
        from openhands.sdk.event import MessageEvent

        conversation, settings = self._the_conversation(), self._settings
        status = conversation.state.execution_status
        events = list(conversation.state.events)
        said = get_agent_final_response(events).strip()
        if status == Status.FINISHED:
            last = next((event for event in reversed(events) if event.source == "agent"), None)
            # An agent that has something to ask can only say so in a message; `finish` is the tool for being done.
            if isinstance(last, MessageEvent) and said.endswith("?"):
                return Outcome.WAITING, f'{said}\n(answer it: paddock-agent --resume {settings.id} "ANSWER")'
            return Outcome.FINISHED, said or "done"
        if status == Status.STUCK:
            return Outcome.STUCK, (
                "the agent did the same again and again and was stopped; say the task in smaller parts, "
                "or try another endpoint"
            )
        if status == Status.WAITING_FOR_CONFIRMATION:
            return Outcome.WAITING, "the agent waits for an action to be confirmed"
        error = next(
            (event for event in reversed(events) if type(event).__name__ == "ConversationErrorEvent"), None
        )
        code, detail = getattr(error, "code", ""), getattr(error, "detail", "")
        if code == "MaxIterationsReached":
            return Outcome.MAX_ITERATIONS, (
                f"stopped after {settings.max_iterations} steps, the limit; raise --max-iterations, "
                f"or go on with --resume {settings.id}"
            )
        if code == "MaxBudgetReached":
            return Outcome.BUDGET, str(detail)
        return Outcome.ERROR, str(detail) or f"the conversation ended as {status.value}"

    def stopped_message(self, outcome: Outcome) -> str:
        """What is said of a run that a signal or the wall clock ended."""
        go_on = f"go on with --resume {self._settings.id}"
        if outcome is Outcome.TIMEOUT:
            return f"stopped after {self._settings.timeout:g} s, the limit; raise --timeout, or {go_on}"
        how = "interrupted" if outcome is Outcome.INTERRUPTED else "ended from outside"
        return f"{how} before it was done; {go_on}"

    def _failure(self, error: Exception) -> tuple[Outcome, str]:
        """The outcome and message of an exception out of the SDK."""
        settings, outcome, detail = self._settings, outcome_of(error), detail_of(error)
        if settings.log_level == "DEBUG":
            traceback.print_exception(error)
        go_on = f"go on with --resume {settings.id}"
        if outcome is Outcome.BUDGET:
            return (
                outcome,
                f"the gateway refused a call because a budget is spent: {detail}; raise the budget, then {go_on}",
            )
        if outcome is Outcome.AUTHENTICATION:
            return outcome, (
                f"expected {settings.llm_base_url} to accept the run's key for endpoint {settings.endpoint!r}, "
                f"found: {detail}; check LLM_API_KEY, and the provider's key in the gateway, then {go_on}"
            )
        if outcome is Outcome.UNKNOWN_ENDPOINT:
            return outcome, (
                f"expected an endpoint {settings.endpoint!r} at {settings.llm_base_url}, found none: {detail}; "
                "MLflow lists the endpoints under AI Gateway; name one of them with --endpoint"
            )
        if outcome is Outcome.PROVIDER_UNAVAILABLE:
            return outcome, (
                f"expected an answer from {settings.llm_base_url} within {settings.llm_attempts} attempts, "
                f"found: {detail}; see whether the gateway and its provider are up, then {go_on}"
            )
        return outcome, detail

    def finish(self, outcome: Outcome, said: str) -> NoReturn:
        """Closes the trace, sends it, prints the result and ends the process."""
        settings = self._settings
        # Whatever hangs from here on, the process ends.
        deadline = threading.Timer(_CLOSE_SECONDS + settings.flush_timeout + 3, self.exit_at_once, [outcome])
        deadline.daemon = True
        deadline.start()
        if self._conversation is None:
            self._report(outcome, said, None)
        self._leave_state_honest(outcome)
        if self._root:
            self._root.end(outcome=outcome.value, finished=outcome is Outcome.FINISHED, output=said)
        closing = threading.Thread(target=self._close, daemon=True, name="close")
        closing.start()
        delivered = self._send(settings.flush_timeout)
        closing.join(_CLOSE_SECONDS)
        self._report(outcome, said, delivered)

    def exit_at_once(self, outcome: Outcome) -> NoReturn:
        """Closes and sends the trace and ends the process: at a second signal, or when a run does not come to its end."""
        said = self.stopped_message(outcome) if outcome.exit_code > 100 else outcome.value
        if self._root:
            self._root.end(outcome=outcome.value, finished=outcome is Outcome.FINISHED, output=said)
        # Beside the sending: a terminal that is not closed outlives the process.
        closing = threading.Thread(target=self._close, daemon=True, name="close")
        closing.start()
        delivered = self._send(2)
        closing.join(1)
        self._report(outcome, said, delivered)

    def _the_conversation(self) -> LocalConversation:
        assert self._conversation is not None, "_open() comes first"
        return self._conversation

    def _on_event(self, event: Event) -> None:
        observation: Any = getattr(event, "observation", None)
        if (
            type(observation).__name__ == "FileEditorObservation"
            and not observation.prev_exist
            and observation.path
        ):
            with contextlib.suppress(OSError):
                give_user_mode(Path(observation.path), self._umask)
        self._writer.event(event)

    def _on_retry(self, attempt: int, attempts: int, error: BaseException | None) -> None:
        if error is not None and any(is_spent_budget(cause) for cause in causes(error)):
            raise BudgetExhausted(detail_of(error)) from error
        why = detail_of(error) if error is not None else "no answer"
        self._writer.notice(f"model call failed, attempt {attempt} of {attempts}: {why[:200]}")

    @staticmethod
    def _take_up(conversation: LocalConversation) -> None:
        """Brings a conversation that was cut off to where it was, without doing any step again.

        The SDK writes each event at once, but where the conversation stands only at the end of a step: after a kill
        in mid-step it would ask the model for that step again. And a call without a result it would simply repeat.
        """
        from openhands.sdk.conversation.state import ConversationState

        newest = next(
            (event for event in reversed(conversation.state.events) if type(event).__name__ not in _NO_STEP),
            None,
        )
        if newest is not None and newest.id != conversation.state.leaf_event_id:
            conversation.navigate_to(newest.id)
        if ConversationState.get_unmatched_actions(conversation.state.active_branch()):
            conversation.reject_pending_actions(_ORPHAN_REASON)
            # The view was built without the open call; only building it anew shows the model the call and its end.
            conversation.navigate_to(conversation.state.leaf_event_id)

    def _leave_state_honest(self, outcome: Outcome) -> None:
        """On disk a stopped run is paused, not running."""
        from openhands.sdk.conversation.state import ConversationExecutionStatus as Status

        state = self._the_conversation().state
        if outcome in {Outcome.TIMEOUT, Outcome.INTERRUPTED, Outcome.TERMINATED}:
            with contextlib.suppress(Exception), state:
                if state.execution_status == Status.RUNNING:
                    state.execution_status = Status.PAUSED

    def _close(self) -> None:
        with contextlib.suppress(Exception):
            self._the_conversation().close()

    def _send(self, seconds: float) -> bool | None:
        """Sends the last spans; None where no traces are sent."""
        if self._root is None or self._root.trace_id is None:
            return None
        flushed = tracing.flush(seconds)
        delivered = flushed and self._delivery.lost == 0 and self._delivery.sent > 0
        if not delivered:
            lost = (
                f"{self._delivery.lost} spans refused"
                if self._delivery.lost
                else f"no answer within {seconds:g} s"
            )
            self._writer.notice(
                f"TRACE NOT DELIVERED: expected {self._settings.otel_endpoint} to take it, found: "
                f"{self._delivery.reason or lost}; the work is done all the same; see whether the collector is up and "
                "OTEL_EXPORTER_OTLP_HEADERS names an experiment it knows"
            )
        return delivered

    def _report(self, outcome: Outcome, said: str, delivered: bool | None) -> NoReturn:
        if not self._reported.acquire(blocking=False):
            # Another thread is at it and will end the process.
            time.sleep(5)
            os._exit(outcome.exit_code)
        with contextlib.suppress(Exception):
            self._writer.result(self._result(outcome, said, delivered))
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        # Not sys.exit: threads of a cut-off tool call or of an exporter that waits for a dead collector would be joined.
        os._exit(outcome.exit_code)

    def _result(self, outcome: Outcome, said: str, delivered: bool | None) -> Result:
        settings = self._settings
        result = Result(
            run_id=str(settings.id),
            trace_id=self._root.trace_id if self._root else None,
            outcome=outcome.value,
            exit_code=outcome.exit_code,
            message=said if delivered is not False else f"{said} (the trace was not delivered in full)",
            seconds=round(time.monotonic() - self._started_at, 3),
            endpoint=settings.endpoint,
            model=settings.model,
            trace_delivered=delivered,
        )
        if self._conversation is None:
            return result
        steps: set[str] = set()
        for event in list(self._conversation.state.events):
            response_id = getattr(event, "llm_response_id", None)
            if event.source == "agent" and response_id:
                steps.add(response_id)
            if type(event).__name__ == "ActionEvent":
                name = str(getattr(event, "tool_name", ""))
                result.tools[name] = result.tools.get(name, 0) + 1
        metrics = self._conversation.conversation_stats.get_combined_metrics()
        usage = metrics.accumulated_token_usage
        if usage is not None:
            result.tokens = Tokens(
                input=usage.prompt_tokens,
                cached_input=usage.cache_read_tokens,
                output=usage.completion_tokens,
                reasoning=usage.reasoning_tokens,
            )
        result.steps = len(steps)
        result.cost_usd = metrics.accumulated_cost or None
        return result
