"""The node agent: states facts about the TCP sockets of this node's pods, and judges nothing."""
