"""The entry point: finds the subcommand, and turns every error into one line and an exit status.

0 done · 1 it failed, the line says why · 2 the command line makes no sense · 130 interrupted ·
141 the reader of our output went away. `MOUNTSTORE_DEBUG=1` shows the traceback of any error.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module

import click

from mountstore import __version__
from mountstore.cli.output import escape
from mountstore.errors import MountstoreError, UsageError

COMMANDS = {
    "mount": ("mountstore.cli.mounts:mount", "Make a store a directory."),
    "umount": ("mountstore.cli.mounts:umount", "Upload what is pending, then end a mount."),
    "sync": ("mountstore.cli.mounts:sync", "Wait until the store has everything."),
    "status": ("mountstore.cli.mounts:status", "Tell what a mount has pending, since when and why."),
    "fsck": ("mountstore.cli.checking:fsck", "Check a mount's journal and store, and repair them."),
    "warm": ("mountstore.cli.tier:warm", "Bring files of a mount into its cache on the local disk."),
    "pin": ("mountstore.cli.tier:pin", "Keep files or directories of a mount on the local disk."),
    "unpin": ("mountstore.cli.tier:unpin", "Let them go again."),
    "cache": ("mountstore.cli.tier:cache", "The cache of a mount: clear."),
    "ls": ("mountstore.cli.objects:ls", "List objects."),
    "cat": ("mountstore.cli.objects:cat", "Write objects to standard output."),
    "get": ("mountstore.cli.objects:get", "Copy an object to a file."),
    "put": ("mountstore.cli.objects:put", "Make a file an object."),
    "rm": ("mountstore.cli.objects:rm", "Delete objects."),
    "cp": ("mountstore.cli.transfers:cp", "Copy objects to another key or store."),
    "mirror": ("mountstore.cli.transfers:mirror", "Make the objects of one store those of another."),
    "repair": ("mountstore.cli.transfers:repair", "Make the children of a fan-out the same again."),
    "serve": ("mountstore.cli.serve:serve", "Serve a store to others, by REST."),
}
BORGSTORE_PROGRAM = "borgstore-server-rest"


class LazyGroup(click.Group):
    """A group that imports the module of a subcommand only when that one is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`mountstore COMMAND --help` tells more.",
)
@click.version_option(__version__, "--version", prog_name="mountstore", message="%(prog)s %(version)s")
def cli() -> None:
    """Mount any object store as a directory, and use its objects from the shell.

    \b
    A STORE is one of
      s3://BUCKET[/PREFIX]   a bucket of Amazon S3, or of any server that speaks its protocol:
                             ?endpoint=URL&region=NAME&profile=NAME&anonymous=true
      sqlite:///PATH         one SQLite file (sqlite:PATH is relative; sqlite: alone is the
                             embedded default store in your data directory)
      file:///PATH           a directory, a file an object (file:PATH is relative)
      memory:                for trying out; gone with the process
      config:NAME            one that your configuration file describes, wrappers and all

    \b
    An OBJECT is a key in a store, in one argument:
      s3://BUCKET/KEY        the whole path is the key, exactly as it stands
      sqlite:///PATH#KEY     in any other store, the key is what follows the first '#'

    Credentials never stand in a URL: the environment (AWS_ACCESS_KEY_ID ...) or an AWS profile
    holds them. MOUNTSTORE_DEBUG=1 shows a full traceback of any error.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    if "_MOUNTSTORE_COMPLETE" in os.environ:  # set by the completion of a shell
        cli.main(prog_name="mountstore")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        name, command = _called()
        # Not main() of it: that would take a broken pipe for success.
        with command.make_context(name, list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except click.ClickException as error:
        where = error.ctx if isinstance(error, click.UsageError) else None
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(error.format_message(), err=True)
            return error.exit_code
        _complain(error.format_message())
        if where is not None:
            click.echo(f"Try '{where.command_path} --help'.", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted")
        return 130
    except SystemExit:
        raise
    except BaseException as error:
        return _report(error)
    return 0


def _called() -> tuple[str, click.Command]:
    """The command that this program is, by the name that it was called by (a link may have another)."""
    if os.path.basename(sys.argv[0]) == BORGSTORE_PROGRAM:
        from mountstore.cli.serve import borgstore_server_rest

        return BORGSTORE_PROGRAM, borgstore_server_rest
    return "mountstore", cli


def _report(error: BaseException) -> int:
    if os.environ.get("MOUNTSTORE_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, MountstoreError):
            _complain(str(leaf))
        elif isinstance(leaf, OSError):
            names = [repr(name) for name in (leaf.filename, leaf.filename2) if name is not None]
            _complain(": ".join([*names, leaf.strerror or str(leaf)]))
        elif isinstance(leaf, KeyboardInterrupt):
            _complain("interrupted")
        else:
            _complain(
                f"internal error, {type(leaf).__name__}: {leaf} (MOUNTSTORE_DEBUG=1 shows where; "
                "please report it)"
            )
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return 130
    return 2 if all(isinstance(leaf, UsageError) for leaf in leaves) else 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors themselves where trio has packed them into groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _complain(message: str) -> None:
    click.echo(f"mountstore: {escape(' '.join(message.split()))}", err=True)


if __name__ == "__main__":
    main()
