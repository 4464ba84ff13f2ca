"""Ask the person at the terminal about a call that requires approval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.cli.argument_editor import arguments_of, edit, is_same, text_of
from perdure.cli.call_texts import call_lines, is_long, printed
from perdure.cli.common import CommandFailed
from perdure.cli.failures import explain
from perdure.cli.render import QUESTION_LIMIT
from perdure.cli.texts import exact_value
from perdure.domain.call_views import has_view
from perdure.domain.decisions import MAX_REASON, Decision
from perdure.domain.tools import ApprovalDecision, ApprovalQuestion
from perdure.domain.visible import exact

if TYPE_CHECKING:
    import asyncio

    from perdure.cli.terminal import Screen
    from perdure.client import Client
    from perdure.domain.messages import JsonObject

DECISIONS: dict[str, Decision] = {
    "y": "allow", "yes": "allow", "a": "allow_always", "always": "allow_always",
    "n": "reject", "no": "reject", "v": "reject_always", "never": "reject_always",
}  # fmt: skip

SHOW_ALL = "; type `s` to see all"

HELP = """\
About a call: `y` runs it; `a` runs also later calls of the tool; `e` opens its arguments in your
editor (VISUAL or EDITOR); `n` rejects it, and `n REASON` tells the model why; `v` rejects later ones too."""


class Asking:
    """Asks about the calls of one session, at one terminal."""

    def __init__(self, runner: asyncio.Runner, client: Client, session_id: str, screen: Screen) -> None:
        self._runner = runner
        self._client = client
        self._session_id = session_id
        self._screen = screen
        self._edits: dict[str, _Edits] = {}

    def ask(self, question: ApprovalQuestion) -> ApprovalDecision:
        """Show a call and ask about it, until the answer is a decision.

        What the person has made of the arguments is kept, in case that the server refuses it.

        Raises:
            EOFError, KeyboardInterrupt: Ctrl-D, Ctrl-C.
        """
        edits = self._edits.setdefault(question.tool_call_id, _Edits(question))
        cut = self._show(edits)
        while True:
            choices = f"  [y]es, [a]lways, [e]dit, [n]o, ne[v]er{', [s]how all' if cut else ''}: "
            choice, _, rest = self._screen.read_answer(choices).strip().partition(" ")
            choice, reason = choice.lower(), rest.strip()
            if choice in ("s", "show") and not reason:
                self._show(edits, whole=True)
            elif choice in ("e", "edit") and not reason:
                self._edit(edits)
                cut = self._show(edits)
            elif choice in DECISIONS:
                decision = DECISIONS[choice]
                if reason and decision.startswith("allow"):
                    self._note("A reason can follow `n` and `v` only.")
                elif edits.arguments is not None and decision == "allow_always":
                    self._note("Your arguments are for this call alone: `y` runs it with them.")
                else:
                    given = edits.arguments if decision == "allow" else None
                    return ApprovalDecision(
                        question.tool_call_id, decision, given, reason[:MAX_REASON] or None
                    )

    def _show(self, edits: _Edits, *, whole: bool = False) -> bool:
        """Print what would run; returns whether not all of it was printed."""
        question, edited = edits.question, edits.arguments
        whose = "" if edited is None else " with your arguments"
        title = f"? allow {exact(question.tool_name)} to run{whose}?"
        arguments = question.arguments if edited is None else edited
        if not has_view(question.tool_name, arguments):
            all_of_it = exact_value(arguments)
            shown = all_of_it if whole else exact_value(arguments, QUESTION_LIMIT)
            cut = shown != all_of_it
            self._note(f"{title} {shown}{SHOW_ALL if cut else ''}")
            return cut
        lines = self._runner.run(call_lines(self._client, self._session_id, question.tool_name, arguments))
        cut = is_long(lines) and not whole
        self._note(title)
        for row in printed(lines, self._screen.width, whole=whole):
            self._screen.line(*row)
        if cut:
            self._note(f"  {SHOW_ALL.removeprefix('; ')}")
        return cut

    def _edit(self, edits: _Edits) -> None:
        """Let the person edit the arguments. What is not valid stays for the next try."""
        before = edits.draft if edits.draft is not None else text_of(edits.question.arguments)
        try:
            edits.draft = edit(before)
            found = arguments_of(edits.draft)
        except CommandFailed as error:
            self._note(f"error: {explain(error)}", "red")
            return
        edits.arguments = None if is_same(found, edits.question.arguments) else found

    def _note(self, text: str, style: str = "yellow") -> None:
        self._screen.line((text, style))


class _Edits:
    """A call that is asked about, and what the person has made of its arguments.

    Attributes:
        arguments: the edited arguments; None if they are the model's.
        draft: the text in the editor, which may not be valid; None before the first time.
    """

    def __init__(self, question: ApprovalQuestion) -> None:
        self.question = question
        self.arguments: JsonObject | None = None
        self.draft: str | None = None
