"""The demo model as an agent: the task's words decide the plan."""

from paddock_demo_model.conversation import Conversation
from paddock_demo_model.plans import next_reply
from paddock_demo_model.protocol import ChatRequest, Reply
from paddock_demo_model.tasks import plan_for


def agent_reply(request: ChatRequest) -> Reply:
    """The next tool call, or the closing message, for an agent's request."""
    conversation = Conversation(request)
    return next_reply(plan_for(conversation), conversation)
