"""An example of a custom capability: dice for the agent.

Install it beside Perdure (`pip install ./examples/dice`), and enable it as `dice`.
"""

import random

from perdure.capabilities import READ_ONLY, Capability, Tool, ToolContext, ToolOutcome, schema


async def roll(context: ToolContext, arguments: dict[str, int]) -> ToolOutcome:
    """Roll some dice."""
    rolls = [random.randint(1, arguments.get("sides", 6)) for _ in range(arguments.get("count", 1))]
    return ToolOutcome({"rolls": rolls, "sum": sum(rolls)})


WHOLE = {"type": "integer", "minimum": 1, "maximum": 100}
ROLL = Tool(
    "roll_dice",
    "Roll dice and add them up.",
    schema({"count": WHOLE, "sides": WHOLE}),
    roll,
    hints=READ_ONLY,
    display_name="Dice",
)
DICE = Capability("dice", "Dice", "Lets the agent roll dice.", "games", tools=lambda config: (ROLL,))
