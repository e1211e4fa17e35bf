"""OpenHands in a script of one's own: the agent works on the current folder.

The model is reached at LLM_BASE_URL. For the traces nothing is needed but the three variables
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS and OTEL_EXPORTER_OTLP_TRACES_PROTOCOL.
"""

import os
import sys
from pathlib import Path

from openhands.sdk import LLM, Agent, Conversation, Tool
from openhands.tools.file_editor import FileEditorTool
from openhands.tools.task_tracker import TaskTrackerTool
from openhands.tools.terminal import TerminalTool

llm = LLM(
    model=os.environ.get("LLM_MODEL", "openai/coder"),
    base_url=os.environ["LLM_BASE_URL"],
    api_key=os.environ.get("LLM_API_KEY", "none"),
)
agent = Agent(
    llm=llm,
    tools=[Tool(name=TerminalTool.name), Tool(name=FileEditorTool.name), Tool(name=TaskTrackerTool.name)],
)
conversation = Conversation(agent=agent, workspace=Path.cwd())
conversation.send_message(" ".join(sys.argv[1:]) or "Write 3 facts about the current project into FACTS.txt.")
conversation.run()
