"""The MCP endpoint, `POST /mcp`: this server's sessions and agents as tools of other programs.

A request is read in `requests`, answered by `methods`, and its tools are in `tools` and `agent_tools`. No
state is kept between requests, so any process of an installation can answer any of them.
"""
