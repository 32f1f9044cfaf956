"""Real requests: OpenAI completions and chats, streamed or not, many at once, each byte stamped where it is read."""

from ftharness.client.answer import GIVEN_UP
from ftharness.client.client import Client
from ftharness.client.connection import CannotLeave, Connection, Left
from ftharness.client.request import Request, chat, completion
from ftharness.client.stream import Stream

__all__ = ["GIVEN_UP", "CannotLeave", "Client", "Connection", "Left", "Request", "Stream", "chat", "completion"]
