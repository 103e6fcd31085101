"""Guards on what goes into a model and what comes out of it: injection, secrets, canaries, block lists.

`guards.Guards.redact` checks a text on its way to a model, `Guards.outgoing` screens a response as it is
generated; both raise `actions.GuardRefusal`, an ApiError, when the project file says refuse.
"""
