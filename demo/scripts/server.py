"""Answers every line with a line; when it closes a connection decides who holds TIME_WAIT.

With --close-after it closes first, that many seconds after its answer. Without, it waits for the client to close.
"""

# ruff: noqa: INP001, T201 - a script, not a package

import argparse
import asyncio


async def serve(port: int, close_after_seconds: float | None) -> None:
    """Serve until killed."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                writer.write(b"here you are\n")
                await writer.drain()
                if close_after_seconds is not None:
                    await asyncio.sleep(close_after_seconds)
                    break
        except ConnectionError:
            pass  # the client went away, which is its right
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "", port, backlog=1024)
    print(f"listening on port {port}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--close-after", type=float, metavar="SECONDS")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.close_after))


if __name__ == "__main__":
    main()
