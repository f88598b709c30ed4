"""Commands of the command line, and those that take a recipe, whose parameters are options of theirs.

``alphaflow train digits --batch-size 32``: a loose parse finds RECIPE among the words; its file is run, once; a command
is built that has its parameters as options, too; and that parses all words again and calls ``train``.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Callable, Container
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from alphaflow.errors import UserError

from .flags import RUNNING

if TYPE_CHECKING:
    from alphaflow.recipe_files import RecipeFile

RECIPE = inspect.Parameter(
    "recipe",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    annotation=Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a built-in recipe, a recipe file, or module:function.")
    ],
)


class Command(TyperCommand):
    """A command that refuses empty values, and takes `alphaflow`'s own option --debug too.

    Attributes:
        texts: the parameters that may be empty.
    """

    texts: Container[str] = ()

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own parameters, --help and --debug."""
        debug = [parameter for parameter in ctx.find_root().command.params if parameter.name == "debug"]
        return [*super().get_params(ctx), *debug]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, and keeps what was given for each parameter, for error messages."""
        RUNNING.context = ctx
        given = ctx.meta["given"] = self.make_parser(ctx).parse_args(list(args))[0] if args else {}
        for parameter in self.params:
            value, name = given.get(parameter.name), parameter.opts[0]
            if isinstance(value, str) and not value.strip() and parameter.name not in self.texts:
                raise UserError(f"{name if name[0] == '-' else name.upper()} is empty; give a value, or leave it out")
        return super().parse_args(ctx, args)


class RecipeCommand(Command):
    """A command that takes a recipe: once that is known, its parameters are options too."""

    work: Callable[..., None]
    own: list[inspect.Parameter]

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Finds RECIPE among the arguments, and parses them with the recipe's parameters."""
        loose: Any = {"parent": parent, "resilient_parsing": True}
        context = self.context_class(self, info_name=info_name, ignore_unknown_options=True, **loose)
        RUNNING.context = context  # errors about RECIPE name the command's flags
        given, rest, _ = self.make_parser(context).parse_args(list(args))
        RUNNING.debug = RUNNING.debug or bool(given.get("debug"))  # recipes fail before options are processed
        words = [word for word in (given.get("recipe"), *rest) if isinstance(word, str) and word.strip()]
        if not words:
            return super().make_context(info_name, args, parent, **extra)
        spec, command = self._chosen(words, args, loose)
        return command.make_context(info_name, args, parent, obj=spec, **extra)

    def _chosen(self, words: list[str], args: list[str], loose: Any) -> tuple[str, Command]:
        """RECIPE, and the command with its parameters, from the words that the command's own options leave.

        RECIPE is the first of them. If that is an option, which only the recipe can know, so that the next word may be
        its value, RECIPE is the first that names a recipe with whose options all arguments can be parsed.
        """
        certain = not words[0].startswith("-")
        names = words[:1] if certain else [word for word in dict.fromkeys(words) if _names_a_recipe(word)]
        if len(names) == 1:
            return names[0], self.with_recipe(names[0])
        for name in names:
            with suppress(UserError):
                command = self.with_recipe(name)
                parser = command.make_parser(self.context_class(command, **loose))
                given, rest, _ = parser.parse_args(list(args))
                if given.get("recipe") == name and not rest:
                    return name, command
        option = words[0].partition("=")[0]
        raise UserError(
            f"{option} is not an option of `alphaflow {self.name}` itself; if it is one of the recipe's, put RECIPE "
            f"first: `alphaflow {self.name} RECIPE {option} …`"
        )

    def with_recipe(self, spec: str) -> Command:
        """The command with a recipe's parameters as options."""
        from alphaflow.recipe_files import find_recipe

        found = find_recipe(spec)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(self.name, cls=Command)(_function(self.work, [*self.own, *_options(found, self.own)], found))
        command: Any = typer.main.get_command(app)
        command.texts = {parameter.name for parameter in found.parameters if parameter.type is str}
        return command  # type: ignore[no-any-return]


def add_recipe_command(app: typer.Typer, work: Callable[..., None], *more: inspect.Parameter) -> None:
    """Adds a command on a recipe.

    Args:
        app: gets it, under the function's name.
        work: takes the `RecipeFile`, then options as keyword arguments: the command's, and with them the recipe's.
        more: parameters of the command beside those of ``work``.
    """
    _, *options = inspect.signature(work, eval_str=True).parameters.values()
    own = [RECIPE, *(p for p in options if p.kind is p.KEYWORD_ONLY), *more]
    kind = type("RecipeCommand", (RecipeCommand,), {"work": staticmethod(work), "own": own})
    app.command(work.__name__, no_args_is_help=True, cls=kind)(_function(work, own))


def _function(
    work: Callable[..., None], parameters: list[inspect.Parameter], found: RecipeFile | None = None
) -> Callable[..., None]:
    """What Typer makes a command of: a function with these parameters."""

    def run(recipe: str, **options: Any) -> None:
        work(found, **options)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = work.__doc__
    if found is not None:
        summary = (ast.get_docstring(ast.parse(found.text)) or "a recipe of your own.").partition("\n")[0]
        run.__doc__ = f"{work.__name__.capitalize()} {found.name}: {summary}"
    return run


def _names_a_recipe(word: str) -> bool:
    """Whether a word looks like a recipe, not like another file or a value."""
    from alphaflow.recipe_files import builtin_recipes

    module = ":" in word and "/" not in word
    return word.endswith(".py") or ".py:" in word or module or word.replace("-", "_") in builtin_recipes()


def _options(found: RecipeFile, own: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """A recipe's parameters as options of the command."""
    comments = _comments(found)
    taken = {"help", "debug", *(parameter.name for parameter in own)}
    options = []
    for parameter in found.parameters:
        if parameter.name in taken:
            raise UserError(f"a recipe's parameter can't be called {parameter.name}: there is that option; rename it")
        option = typer.Option(help=comments.get(parameter.name), rich_help_panel="Recipe's parameters")
        options.append(
            inspect.Parameter(
                parameter.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=parameter.default,
                annotation=Annotated[parameter.type, option],
            )
        )
    return options


def _comments(found: RecipeFile) -> dict[str, str]:
    """What the recipe's source says of its parameters: in a comment at the end of a parameter's line."""
    tokens = tokenize.generate_tokens(io.StringIO(found.text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.parse(found.text).body:
        if isinstance(node, ast.FunctionDef) and node.name == found.function.__name__:
            return {
                arg.arg: comments[arg.lineno] for arg in node.args.kwonlyargs if node.lineno < arg.lineno in comments
            }
    return {}
