"""Flags that may be given a truth value, as the original code's commands have them."""

import click


def spelled_alike(name: str) -> str:
    """An option's name as click compares it: ``-`` and ``_`` are alike."""
    return name.replace("-", "_")


class FlagCommand(click.Command):
    """A command any of whose flags may be ``--cond``, ``--cond=True`` or ``--cond=False``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {
            spelled_alike(name): param
            for param in self.params
            if isinstance(param, click.Option) and param.is_bool_flag
            for name in param.opts
        }
        plain, off = [], []
        for arg in args:
            name, equals, value = arg.partition("=")
            flag = flags.get(spelled_alike(name)) if equals else None
            if flag is None:
                plain.append(arg)
            elif click.BOOL.convert(value, flag, ctx):
                plain.append(name)
            else:
                off.append(flag.name)
        rest = super().parse_args(ctx, plain)
        for name in filter(None, off):
            ctx.params[name] = False
            ctx.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)
        return rest
