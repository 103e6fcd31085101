"""Slack: what an export holds, conversations out of it, and the Web API pulled into its shape."""
