"""An SSH server that is not OpenSSH, by asyncssh: it runs commands, and refuses to forward in words of its own.

Run by path on a host, as root: PORT, the file of its key, the account that logs in, and what it says to a request for a
channel. ``refused`` says what asyncssh says by default: "Connection refused", as if nothing listened there.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from typing import Any

import asyncssh

SAYS = {
    "refused": None,
    "prohibited": asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "no tunnels on this cluster"),
    "unknown": asyncssh.ChannelOpenError(asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE, "was soll das sein?"),
    "shortage": asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "come back tomorrow"),
}


def main() -> None:
    """Serve until the process is ended."""
    port, key, user, says = sys.argv[1:]
    account = pwd.getpwnam(user)

    class Server(asyncssh.SSHServer):
        def connection_requested(self, *_: Any) -> bool:
            return self.refuse()

        def unix_connection_requested(self, *_: Any) -> bool:
            return self.refuse()

        def refuse(self) -> bool:
            if (error := SAYS[says]) is not None:
                raise error
            return False

    def become() -> None:
        os.setgid(account.pw_gid)
        os.initgroups(user, account.pw_gid)
        os.setuid(account.pw_uid)

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        environ = {"HOME": account.pw_dir, "USER": user, "LOGNAME": user, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            process.command or "true",
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=account.pw_dir,
            env=environ,
            preexec_fn=become,
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        await process.stdout.drain()  # all that the command wrote has been sent
        await process.stderr.drain()
        process.exit(await child.wait())

    async def serve() -> None:
        keys = f"{account.pw_dir}/.ssh/authorized_keys"
        options: Any = {"server_factory": Server, "process_factory": run, "encoding": None}
        await asyncssh.listen("", int(port), server_host_keys=[key], authorized_client_keys=keys, **options)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
