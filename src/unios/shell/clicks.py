"""Makes click commands of the declared words: help, mistakes, completion, every way of writing options. Imported only on need."""

from typing import Any, Final

import click

from unios import __version__
from unios.shell import mistakes
from unios.shell.words import COMMON, INDEX, Given, Option, Word, find, groups, is_given

_HELP = """A handful of Linux machines that behave as one computer.

\b
The first five minutes:
  unios up --nodes 3                  three nodes on this machine, for trying out
  unios run -- sh -c 'echo hello'     a program, as if it ran here
  unios run -d -- sleep 1000          in the background, somewhere; prints its pid
  unios ps                            the same from every node
  unios top                           live, with keys
  unios status                        is all well? if not: what to type
  unios down --all                    everything goes

`unios help WORD` says what a word takes, `unios man` says all, with examples."""


_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}


class Chosen(Exception):
    """What was typed, read."""

    def __init__(self, word: Word, given: Given) -> None:
        super().__init__()
        self.word = word
        self.given = given


class _Command(click.Command):
    def __init__(self, name: str, word: Word) -> None:
        params: list[click.Parameter] = [_parameter(option) for option in (*word.options, *COMMON)]
        if word.argument:
            nargs = 1 if word.one else -1
            params.append(click.Argument(["arguments"], metavar=word.argument, nargs=nargs, required=False, type=str))
        settings: dict[str, Any] = {**_SETTINGS, "allow_interspersed_args": not word.rest, "allow_extra_args": True}  # which are counted here
        super().__init__(name, params=params, help=word.text, short_help=INDEX[name][1] if name in INDEX else "", context_settings=settings)
        self._word = word

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        word, name = self._word, ctx.info_name or ""
        rest = super().parse_args(ctx, word.prepare(args) if word.prepare is not None else args)
        if rest:
            raise click.UsageError(mistakes.too_many(name, word, rest), ctx)
        if len(_several(ctx.params.get("arguments"))) < word.least:
            raise click.UsageError(mistakes.too_few(name, word), ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        typed = dict(ctx.params)
        arguments = typed.pop("arguments", None)
        values = dict(ctx.find_root().params)
        values.update({key: value for key, value in typed.items() if is_given(value)})
        raise Chosen(self._word, Given(values, _several(arguments)))


def _several(arguments: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if arguments is None else (arguments,) if isinstance(arguments, str) else tuple(arguments)


class _Number(click.ParamType[int]):
    """A whole number from 0 on."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = -1
        return number if number >= 0 else self.fail(mistakes.no_number(value), param, ctx)


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(INDEX)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        word = find(cmd_name)
        return None if word is None else _Command(cmd_name, word)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in INDEX and find(args[0]) is None:
            raise click.UsageError(mistakes.unknown_word(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, INDEX))
        for title, names in groups():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), INDEX[name][1]) for name in names])


def _parameter(option: Option) -> click.Option:
    names = [*option.names, option.key]
    if option.is_flag:
        return click.Option(names, is_flag=True, help=option.text)
    if option.choices:
        return click.Option(names, type=click.Choice(option.choices), help=option.text)
    kind: click.ParamType[Any] = _Number() if option.number else click.STRING
    return click.Option(names, metavar=option.metavar, type=kind, multiple=option.many, help=option.text)


def group() -> click.Group:
    """Return the `unios` command; invoking it raises Chosen."""
    version = click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
    return _Group(
        "unios",
        context_settings=_SETTINGS,
        params=[*(_parameter(option) for option in COMMON), version],
        help=_HELP,
    )


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"unios {__version__}")
        ctx.exit()


def read(typed: list[str]) -> Chosen | int:
    """Return what was typed, or the exit code once help was shown. Raises click.ClickException for a mistake."""
    try:
        code = group().main(args=typed, prog_name="unios", standalone_mode=False)
    except Chosen as chosen:
        return chosen
    except click.Abort:
        return 130
    except OSError as error:
        from unios.shell.session import unwritable

        raise unwritable(error) from error
    return code if isinstance(code, int) else 0
