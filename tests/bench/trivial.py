"""The smallest server on the same SDK: one tool that returns what it is given. Run as a program, over stdio."""

from mcp.server import MCPServer

server = MCPServer("trivial")


@server.tool()
async def echo(code: str) -> str:
    """Return it."""
    return code


if __name__ == "__main__":
    server.run()
