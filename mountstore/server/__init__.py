"""A REST server of namespaces: the protocol of borgstore, over any store.

Bottom up: `transport` (bytes), `connection` (heads in, answers out), `head` and `body` (what a request says),
`conversation` (requests in turn), `verbs` (the protocol), `serve` (many connections, and their end).
"""
