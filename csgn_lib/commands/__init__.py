"""The commands of ``csgn``, in the order of its help. Heavy modules are imported inside of them."""

import typer

from csgn_lib.commands.running import demo, explain, run, status, sweep, train
from csgn_lib.commands.scoring import check, score, words, world
from csgn_lib.commands.using import embed, evaluate, export, search

app = typer.Typer(
    name="csgn",
    help="Clothes-changing person re-identification: train, evaluate, compare and use models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, train, sweep, status, check, explain, demo, world, embed, search, export, score, evaluate, words):
    app.command()(command)
