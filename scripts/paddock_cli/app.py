"""The commands. Each one is short: what they do stands in the modules that they import when they run."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paddock_cli import console
from paddock_cli.config_commands import config_app
from paddock_cli.egress_commands import egress_app
from paddock_cli.exit_codes import ExitCode
from paddock_cli.suite_report_commands import suite_app
from paddock_cli.trust_commands import judges_app, label

if TYPE_CHECKING:
    from paddock_cli.stack import Stack
    from paddock_cli.task import Report

app = typer.Typer(
    name="paddock",
    help="OpenHands coding agents, traced, judged and fenced in. Start with: ./paddock demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(config_app)
app.add_typer(egress_app)
app.add_typer(judges_app)
app.add_typer(suite_app)
app.command()(label)

AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress on standard error.")
]
Embedded = Annotated[bool, typer.Option("--embedded", help="Without Docker, as plain processes: no fence.")]
Workspace = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Folder that the agent works on.", show_default=False)
]
JudgeSeconds = Annotated[
    float, typer.Option("--judge-timeout", min=0, help="Seconds to wait for verdicts; 0: don't wait.")
]


@app.command()
def demo(
    workspace: Workspace = None,
    embedded: Embedded = False,
    judge_timeout: JudgeSeconds = 120,
    as_json: AsJson = False,
) -> None:
    """Bring everything up and run the first task, judged; without Docker it runs embedded and says so."""
    from paddock_cli import config, egress, preflight, selection, task
    from paddock_cli import demo as first_task
    from paddock_cli.settings import load, paths

    where = paths()
    settings = load(where)
    config.validate(None)
    egress.require_valid(settings)
    if workspace is not None:
        workspace = preflight.workspace(workspace, where)
    stack = selection.to_start(where, settings, embedded=embedded, fall_back=True)
    with selection.changing(where):
        stack.up()
    order = first_task.order(where, workspace, stack.kind)
    console.say(f"Task: {order.task}\nWorkspace: {order.workspace}", style="bold")
    report = task.perform(stack, order, where, as_json=as_json, judge_seconds=judge_timeout)
    _finish(report, as_json)
    if not as_json:
        connection = stack.connection()
        new = selection.password_is_new(where, connection.password)
        shown = f"password {connection.password}" if new else "password by: ./paddock password"
        console.say(f"Log in as {connection.user}, {shown}")
    raise typer.Exit(report.exit_code)


@app.command()
def up(
    embedded: Embedded = False,
    no_build: Annotated[bool, typer.Option("--no-build", help="Take the images as they are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build what is missing, start the stack and wait until it serves."""
    from paddock_cli import config, egress, selection
    from paddock_cli.settings import load, paths

    where = paths()
    settings = load(where)
    # A slip in them should not first cost a start.
    config.validate(None)
    egress.require_valid(settings)
    stack = selection.to_start(where, settings, embedded=embedded, fall_back=False)
    with selection.changing(where):
        stack.up(build=not no_build)
    connection = stack.connection()
    first = selection.password_is_new(where, connection.password)
    if as_json:
        password = {"password": connection.password} if first else {}
        console.document({"stack": stack.kind, "url": connection.url, "user": connection.user, **password})
        return
    console.out.print(f"{connection.url}  user {connection.user}", soft_wrap=True)
    if stack.kind == "compose" and settings.exposed.site_url:
        console.out.print(f"{settings.exposed.site_url}  by TLS", soft_wrap=True)
    if first:
        console.out.print(f"password {connection.password}  (once more: ./paddock password)", soft_wrap=True)
    else:
        console.out.print("password: ./paddock password")


@app.command()
def stop(as_json: AsJson = False) -> None:
    """End running agents, then stop the services. Everything is kept."""
    from paddock_cli import selection
    from paddock_cli.settings import paths

    stack = _stack()
    with selection.changing(paths()):
        stack.stop()
    if as_json:
        console.document({"stack": stack.kind, "stopped": True})


@app.command()
def down(
    volumes: Annotated[
        bool, typer.Option("--volumes", "-v", help="Remove the data too: traces, secrets, all.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """End running agents, then remove the stack; its data only with --volumes."""
    from paddock_cli import selection
    from paddock_cli.errors import Declined
    from paddock_cli.settings import forget, paths

    stack = _stack()
    if volumes and not yes:
        question = "Remove every trace, verdict, endpoint, artifact and password of this stack?"
        try:
            agreed = typer.confirm(question, err=True)
        except typer.Abort:
            agreed = False
        if not agreed:
            raise Declined(
                "a confirmation", "none", "nothing was changed; add --yes to go without a question"
            )
    where = paths()
    with selection.changing(where):
        stack.down(volumes=volumes)
        forget(where)
        selection.forget(where)
    if as_json:
        console.document({"stack": stack.kind, "removed": True, "volumes": volumes})


@app.command()
def status(as_json: AsJson = False) -> None:
    """What runs and how it does. Exit code 29 where nothing runs."""
    from paddock_cli import render
    from paddock_cli.errors import NotRunning

    stack = _stack()
    services = stack.status()
    running = any(service.state == "running" for service in services)
    try:
        url = stack.url() if running else ""
    except NotRunning:
        # Some services run, but MLflow does not.
        url = ""
    if as_json:
        console.document(
            {
                "stack": stack.kind,
                "running": running,
                "url": url,
                "services": [asdict(one) for one in services],
            }
        )
    elif services:
        console.out.print(f"{stack.kind} stack{f' at {url}' if url else ''}", soft_wrap=True)
        console.out.print(render.status_table(services))
    else:
        console.out.print("nothing runs; start with: ./paddock up")
    raise typer.Exit(ExitCode.OK if running else ExitCode.NOT_RUNNING)


@app.command()
def logs(
    services: Annotated[list[str] | None, typer.Argument(help="Services; all if none is named.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Lines of each; 0: all.")] = 100,
    as_json: AsJson = False,
) -> None:
    """What the services say."""
    stack = _stack()
    lines = stack.logs(services or [], follow=follow and not as_json, tail=tail)
    if as_json:
        console.document({"stack": stack.kind, "lines": list(lines)})
        return
    for line in lines:
        sys.stdout.write(console.plain(line) + "\n")


@app.command()
def run(
    task: Annotated[
        str,
        typer.Argument(help="What the agent is to do; - reads it from standard input.", show_default=False),
    ] = "",
    workspace: Workspace = None,
    endpoint: Annotated[str | None, typer.Option(help="Gateway endpoint. [default: coder]")] = None,
    max_iterations: Annotated[int | None, typer.Option(min=1, help="Steps at most.")] = None,
    timeout: Annotated[int | None, typer.Option(min=1, help="Seconds at most.")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="What its model calls may cost together, like 0.50.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(min=16, help="Of one model call. [default with --budget: 8192]")
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(help="What the answer must say, for the judge Correctness. Repeatable."),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND",
            help="What must pass on a copy of the workspace once the agent has ended; it runs in a fresh container"
            " without a network. Repeatable.",
        ),
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            help="Of terminal,file_editor,task_tracker,glob,grep,browser. [default: the first three]"
        ),
    ] = None,
    mcp: Annotated[Path | None, typer.Option(help="JSON file of MCP servers.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN_ID", help="Go on with a run that was cut off.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="What it may reach beside the models, like index.example. Repeatable."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Name in the trace. [default: yours]")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Tag of the trace. Repeatable.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Variable of your shell or of .env that a command of the agent gets where it names it; hidden in all"
            " output and in the trace. Repeatable.",
        ),
    ] = None,
    judge_timeout: JudgeSeconds = 120,
    as_json: AsJson = False,
) -> None:
    """Run an agent on a folder (the current one by default); ends with the outcome's exit code; 39: a check failed."""
    from paddock_cli import task as tasks
    from paddock_cli.settings import load, paths

    if task == "-":
        task = sys.stdin.read()
    where = paths()
    order = tasks.Order(
        task=task,
        workspace=workspace,
        endpoint=endpoint,
        max_iterations=max_iterations,
        timeout=timeout,
        budget=budget,
        max_output_tokens=max_output_tokens,
        expectations=expect or [],
        tools=tools,
        mcp=mcp,
        resume=resume,
        allow=allow or [],
        user=user,
        tags=tag or [],
        secrets=secret or [],
        checks=check or [],
    )
    # Looked at before the stack is: a slip in the call should not first cost a start.
    tasks.request_of(order, where)
    from paddock_cli import selection

    stack = selection.running(where, load(where))
    report = tasks.perform(stack, order, where, as_json=as_json, judge_seconds=judge_timeout)
    _finish(report, as_json)
    raise typer.Exit(report.exit_code)


@app.command()
def traces(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many.")] = 20,
    filter_string: Annotated[
        str, typer.Option("--filter", help="MLflow's filter, like: attributes.status = 'ERROR'")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """The newest traces with state, tokens, cost and verdicts."""
    from paddock_cli import render
    from paddock_cli.mlflow_api import Mlflow
    from paddock_cli.task import trace_json

    server = Mlflow(_stack().connection())
    experiment_id = server.experiment_id()
    found = server.traces(experiment_id, limit, filter_string)
    if as_json:
        console.document(
            {
                "traces": [
                    trace_json(trace) | {"link": server.trace_link(experiment_id, trace.trace_id)}
                    for trace in found
                ]
            }
        )
        return
    if found:
        render.traces(found)
    else:
        console.out.print("no traces yet")
    console.out.print(server.experiment_link(experiment_id), soft_wrap=True)


@app.command()
def evaluate(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Trace or run ids; the newest traces if nothing is named.")
    ] = None,
    trace: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A trace. Repeatable.", show_default=False)
    ] = None,
    session: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A session, for judges of sessions. Repeatable.", show_default=False),
    ] = None,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="All that ended since: 90m, 2h, 7d, or a date.", show_default=False
        ),
    ] = "",
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", "-j", help="Judge by name. Repeatable. [default: all that can]"),
    ] = None,
    judges: Annotated[
        str, typer.Option(metavar="A,B", help="The same, with commas between.", show_default=False)
    ] = "",
    again: Annotated[
        bool, typer.Option("--again", help="Also where there is a verdict, which the new one overrides.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many of the newest.")] = 5,
    expect: Annotated[list[str] | None, typer.Option(help="What the answers must say. Repeatable.")] = None,
    judge_timeout: Annotated[
        float, typer.Option("--judge-timeout", min=0, help="Seconds to wait for the next verdict.")
    ] = 120,
    as_json: AsJson = False,
) -> None:
    """Let judges look at traces now, and show what they say. Exit code 0 also where they say no."""
    from paddock_cli import evaluation
    from paddock_cli.mlflow_api import Mlflow

    names = [*(judge or []), *(name.strip() for name in judges.split(",") if name.strip())]
    order = evaluation.Order(
        ids=[*(ids or []), *(trace or [])],
        sessions=session or [],
        since=since,
        judges=names,
        limit=limit,
        expectations=expect or [],
        again=again,
        seconds=judge_timeout,
    )
    server = Mlflow(_stack().connection())
    evaluated = evaluation.evaluate(server, order)
    if as_json:
        console.document(evaluation.as_json(evaluated))
    else:
        evaluation.show(server, evaluated)


@app.command()
def costs(
    by: Annotated[str, typer.Option(help="endpoint, user, key, run, day or model.")] = "endpoint",
    since: Annotated[str, typer.Option(help="Span back from now (90m, 12h, 7d, 2w), or a date.")] = "7d",
    until: Annotated[str, typer.Option(help="The same. [default: now]", show_default=False)] = "",
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Every group to a file; -: standard output.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="A picture: .svg or .html, whole in one file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What the gateway's calls cost, by its ledger: calls, tokens, USD, share."""
    from paddock_cli import costs as report
    from paddock_cli.errors import UsageFailed
    from paddock_cli.mlflow_api import Mlflow

    if as_json and csv == "-":
        raise UsageFailed("one of --json and --csv -", "both", "standard output has room for one")
    if plot is not None:
        report.check_plot(plot)
    found = report.read(Mlflow(_stack().connection()), by, since, until)
    if csv is not None:
        report.write_csv(found, csv)
    if plot is not None:
        report.write_plot(found, plot)
    if as_json:
        console.document(found.answer)
    elif csv != "-":
        report.show(found)


@app.command()
def password(as_json: AsJson = False) -> None:
    """The administrator's password."""
    connection = _stack().connection()
    if as_json:
        console.document({"url": connection.url, "user": connection.user, "password": connection.password})
    else:
        console.out.print(connection.password, soft_wrap=True)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Exports for an agent or a client of your own on this machine: eval "$(./paddock env)"."""
    import shlex

    variables = _stack().client().variables()
    if as_json:
        console.document(variables)
        return
    for name, value in variables.items():
        console.out.print(f"export {name}={shlex.quote(value)}", soft_wrap=True)


keys_app = typer.Typer(
    name="keys",
    help="Keys of the gateway: for people and programs outside the stack, each with its own limits.",
    no_args_is_help=True,
)
app.add_typer(keys_app)


@keys_app.command("create")
def create_key(
    user: Annotated[str, typer.Option(help="Whose calls they are; made where there is none.")],
    endpoint: Annotated[list[str], typer.Option(help="What the key may call. Repeatable.")],
    budget: Annotated[
        str | None, typer.Option(help="USD: 5/day, 0.50/hour, 20/2 weeks, or 3 for the whole life.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="30d, 12h, 90m, 2w. [default: never]")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, max=2_000_000_000)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, max=2_000_000_000)] = None,
    experiment: Annotated[
        list[str] | None,
        typer.Option(help="Whose traces the key may write. Repeatable. [default: agents]"),
    ] = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key; its text is shown once, on standard output."""
    from paddock_cli import keys
    from paddock_cli.mlflow_api import Mlflow

    body = keys.wanted(
        user=user,
        endpoints=endpoint,
        budget=budget,
        expires=expires,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        experiments=experiment or None,
        name=name,
    )
    server = Mlflow(_stack().connection())
    made = keys.create(server, body)
    if as_json:
        console.document(made)
    else:
        keys.show_new(made, server.url)


@keys_app.command("list")
def list_keys(
    runs: Annotated[bool, typer.Option("--runs", help="Those of single runs too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every key, with what it spent."""
    from paddock_cli import keys
    from paddock_cli.mlflow_api import Mlflow

    found = keys.listed(Mlflow(_stack().connection()), runs)
    if as_json:
        console.document({"keys": found})
    else:
        console.out.print(keys.table(found))


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="From ./paddock keys list.")],
    as_json: AsJson = False,
) -> None:
    """End a key at once, on every server."""
    from paddock_cli import keys
    from paddock_cli.mlflow_api import Mlflow

    revoked = keys.revoke(Mlflow(_stack().connection()), key_id)
    if as_json:
        console.document(revoked)
    else:
        console.out.print(f"{revoked['id']} of {revoked['user']} is revoked")


@app.command()
def sbom(
    folder: Annotated[Path, typer.Argument(help="Where the files go.")] = Path("sbom"),
    service: Annotated[
        list[str] | None, typer.Option(help="Whose image. Repeatable. [default: all]", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a bill of materials (CycloneDX) of every image."""
    from paddock_cli import sbom as bills
    from paddock_cli.compose import ComposeStack
    from paddock_cli.preflight import require_engine
    from paddock_cli.settings import load, paths

    require_engine()
    where = paths()
    images = ComposeStack(where, load(where)).images()
    written = bills.write(where, images, service or [], folder)
    if as_json:
        console.document({"bills": [asdict(bill) | {"file": str(bill.file)} for bill in written]})
        return
    for bill in written:
        console.out.print(str(bill.file), soft_wrap=True, markup=False)


@app.command()
def advisories(
    osv_url: Annotated[
        str, typer.Option(metavar="URL", help="OSV's API, where a mirror has it.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Known vulnerabilities of what is installed; asks OSV and Go's database on the Internet."""
    from paddock_cli import advisories as report
    from paddock_cli.settings import paths

    found = report.look(paths(), osv_url)
    bad = any(one.vulnerabilities or one.not_checked for one in found)
    if as_json:
        console.document({"locks": [asdict(one) for one in found]})
    else:
        for one in found:
            for vulnerability in one.vulnerabilities:
                console.out.print(f"{one.lock}: {vulnerability}", soft_wrap=True, markup=False)
        for one in found:
            if one.not_checked:
                console.warn(f"NOT CHECKED: {one.lock} ({one.not_checked})")
    raise typer.Exit(ExitCode.ADVISORIES if bad else ExitCode.OK)


@app.command()
def audit(as_json: AsJson = False) -> None:
    """Look whether the fence of the running stack holds: what an agent reaches, may do, and is worth. Breaks nothing."""
    from paddock_cli.audit import command, report
    from paddock_cli.settings import load, paths

    where = paths()
    found = command.audit(where, load(where))
    if as_json:
        console.document(found.as_json())
    else:
        report.show(found)
    raise typer.Exit(found.exit_code)


@app.command()
def test(
    tests: Annotated[
        list[str] | None, typer.Argument(help="Files or folders under tests/; all if none.")
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="docker or browser: missing is then a failure. Repeatable.")
    ] = None,
    keyword: Annotated[str, typer.Option("-k", help="Only tests that match, as pytest's -k.")] = "",
    parallel: Annotated[
        bool,
        typer.Option("--parallel", help="The Compose stack's tests beside the others: shorter on two cores."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run every test that this machine can run; tells what it can't, and why."""
    from paddock_cli import testing
    from paddock_cli.settings import paths

    summary = testing.run(
        paths(), set(require or []), keyword, tests or [], as_json=as_json, parallel=parallel
    )
    if as_json:
        console.document(summary.as_json())
    raise typer.Exit(summary.exit_code)


def _stack() -> "Stack":
    from paddock_cli import selection
    from paddock_cli.settings import load, paths

    where = paths()
    return selection.running(where, load(where))


def _finish(report: "Report", as_json: bool) -> None:
    from paddock_cli import task

    if as_json:
        console.document(report.as_json())
    else:
        task.show(report)
