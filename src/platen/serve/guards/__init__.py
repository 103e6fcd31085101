"""Guards on what goes into a model and what comes out of it: injection, secrets, canaries, block lists.

`Guards.redact` checks a text on its way to a model, `Guards.outgoing` screens an answer as it is written;
both raise `GuardRefusal`, an ApiError, when the project file says refuse.
"""

from platen.serve.guards.actions import GuardRefusal, Origin
from platen.serve.guards.guards import Guards, Incoming, Outgoing
from platen.serve.guards.upstream_screen import RelayedScreen

__all__ = ["GuardRefusal", "Guards", "Incoming", "Origin", "Outgoing", "RelayedScreen"]
