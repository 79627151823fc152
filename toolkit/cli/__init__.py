"""The `handheld` command: each verb parses, calls one function of a room, and prints what it returned."""
