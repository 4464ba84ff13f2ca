"""`skills`.

Adds the names and descriptions of skills to the prompt. The model activates one to read its text.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec.structs import replace

from perdure.app.context import Services
from perdure.app.session_skills import MAX_LISTED, ActiveSkill, KnownSkills, Pins, activate, offered_skills
from perdure.capabilities.behaviour import Behaviour
from perdure.capabilities.port import (
    READ_ONLY,
    REPEATABLE,
    Capability,
    Discovered,
    DiscoveryContext,
    Later,
    Tool,
    ToolContext,
    ToolOutcome,
    schema,
)
from perdure.domain.errors import ToolError
from perdure.domain.ids import millis_of
from perdure.domain.messages import JsonObject
from perdure.domain.paths import MOUNT
from perdure.domain.skill_catalogue import FOLDER, OfferedSkill, catalogue_text
from perdure.domain.skills import LATEST, MAX_PINS, OFFERS, SKILLS, merged, pins_of, read_config
from perdure.domain.texts import one_line

NAMES = ("list_skills", "activate_skill")
PAGE = 40
"""Skills in one answer of `list_skills`."""
MAX_LABEL = 1_000
"""Characters of the name of a skill, with its server and path."""
MAX_FILE_NAME = 1_000
MAX_QUERY = 200
MAX_LIST = 8_000
"""Characters of the files that an activation lists."""
MAX_ERROR = 300
"""Characters of what is wrong with a skill."""


def skills(services: Services) -> Capability:
    """Create the capability, bound to the services that it reads skills with."""
    known = KnownSkills()

    def tools(pins: Pins) -> tuple[Tool, ...]:
        return skill_tools(services, known, pins)

    without_pins = tools({})

    async def discover(config: Any, context: DiscoveryContext) -> Discovered:
        found = await offered_skills(services, known, context, context.session_id, pins_of(config))
        late = () if _always(config) or not found else without_pins
        return Discovered(_prompt(found), late)

    def tools_of(config: Any) -> tuple[Tool, ...]:
        pins = pins_of(config)
        return tools(pins) if pins else without_pins if _always(config) else ()

    return Capability(
        id=SKILLS,
        name="Skills",
        description=(
            "Gives the agent skills: instructions for particular tasks, which it reads when it needs them. "
            f"They are in the registry, or in the session's files as {FOLDER}/<name>/SKILL.md."
        ),
        category="files",
        dependencies=("session_file_system",),
        read=read_config,
        config_schema=schema(
            {
                "pins": {
                    "type": "object",
                    "maxProperties": MAX_PINS,
                    "propertyNames": {"pattern": "^skill_[0-9a-f]{32}$"},
                    "additionalProperties": {
                        "anyOf": [
                            {"type": "string", "pattern": f"^({LATEST}|[0-9a-f]{{64}})$"},
                            {"type": "null"},
                        ]
                    },
                    "description": (
                        "Skills of the registry, by id, each with its version. `null` becomes the current "
                        f"version when it is saved; `{LATEST}` stays the current one. A capability "
                        "`skill:{id}` is an entry of this map, too."
                    ),
                },
                "offer": {
                    "enum": [*OFFERS],
                    "default": "always",
                    "description": "`with_skills`: the tools are offered only once there is a skill.",
                },
            }
        ),
        tools=tools_of,
        discover=discover,
        instructions=lambda config: (FOLDER,),
        reads_database=True,
        behave=_behave,
        merge=merged,
    )


def skill_tools(services: Services, known: KnownSkills, pins: Pins) -> tuple[Tool, Tool]:
    """The tools, for these skills of the registry, those of the session's files and of its MCP servers."""
    return _list_tool(services, known, pins), _activate_tool(services, known, pins)


def _behave(config: Any, behaviour: Behaviour) -> Behaviour:
    """Offer the tools even where discovered tools have to be searched: the catalogue names them."""
    rules = behaviour.tool_search
    return replace(behaviour, tool_search=replace(rules, always=(*rules.always, *NAMES)))


def _always(config: Any) -> bool:
    """Whether the tools are offered whatever the session's files have."""
    return bool(pins_of(config)) or (config or {}).get("offer", "always") == "always"


def _prompt(found: list[OfferedSkill]) -> str:
    text = catalogue_text([each for each in found if not each.errors and not each.hidden])
    wrong = sum(bool(each.errors) for each in found)
    if not wrong:
        return text
    note = f"({wrong} skills in {FOLDER} cannot be used: list_skills says why.)"
    return f"{text}\n{note}" if text else note


def _list_tool(services: Services, known: KnownSkills, pins: Pins) -> Tool:
    return Tool(
        name=NAMES[0],
        display_name="List skills",
        description="List the skills with their whole descriptions, and those that cannot be used.",
        parameters=schema(
            {
                "query": {
                    "type": "string",
                    "maxLength": MAX_QUERY,
                    "description": "Text that the name or the description contains.",
                },
                "offset": {"type": "integer", "minimum": 0, "description": "How many to skip."},
            }
        ),
        run=partial(_list, services, known, pins),
        hints=READ_ONLY,
        spill=False,
        reads_files=True,
    )


def _activate_tool(services: Services, known: KnownSkills, pins: Pins) -> Tool:
    return Tool(
        name=NAMES[1],
        display_name="Activate skill",
        description="Read the instructions of a skill, before a task that it fits.",
        parameters=schema(
            {
                "name": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_LABEL,
                    "description": "Its name.",
                },
                "file": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_FILE_NAME,
                    "description": "Of a skill of an MCP server: a further file to read instead.",
                },
            },
            "name",
        ),
        run=partial(_activate, services, known, pins),
        hints=REPEATABLE,
        spill=False,
        reads_files=True,
    )


async def _list(
    services: Services, known: KnownSkills, pins: Pins, context: ToolContext, arguments: JsonObject
) -> ToolOutcome:
    found = await offered_skills(services, known, context, context.session_id, pins)
    query, offset = str(arguments.get("query") or "").casefold(), int(arguments.get("offset") or 0)
    remote = await _of_servers(services, context)
    shown = [*(_shown(each) for each in found if not each.hidden), *remote["skills"]]
    those = [each for each in shown if query in f"{each['name']}\n{each['description']}".casefold()]
    page = those[offset : offset + PAGE]
    rest = len(those) - offset - len(page)
    more = {"next_offset": offset + len(page)} if rest > 0 else {}
    failed = {"mcp_servers_without_list": remote["errors"]} if remote["errors"] else {}
    return ToolOutcome({"skills": page, "total": len(those), **more, **failed})


async def _of_servers(services: Services, context: ToolContext) -> JsonObject:
    """The skills of the session's MCP servers, and the errors of servers by what they are called."""
    from perdure.tools.mcp.skills import find_skills, listed, reach_of  # only sessions with servers need it

    found = await find_skills(reach_of(services), context)
    if found.skills:
        context.heard_from("MCP servers")
    return {"skills": listed(found), "errors": found.errors}


def _shown(skill: OfferedSkill) -> JsonObject:
    shown: JsonObject = {"name": skill.name, "description": skill.description, "source": skill.source}
    if skill.source == "files":
        shown["folder"] = skill.folder
    if skill.errors:
        shown["cannot_be_used"] = one_line("; ".join(skill.errors), MAX_ERROR)
    return shown


async def _activate(
    services: Services, known: KnownSkills, pins: Pins, context: ToolContext, arguments: JsonObject
) -> ToolOutcome | Later:
    name, file = arguments["name"], arguments.get("file")
    if ":" in name:  # as no other skill is called
        from perdure.tools.mcp.skills import activate_of_server, reach_of

        return await activate_of_server(reach_of(services), context, name, file)
    if file is not None:
        raise ToolError("`file` is for skills of MCP servers: read this one's files with the file tools")
    found = await offered_skills(services, known, context, context.session_id, pins)
    skill = next((each for each in found if each.name == name), None)
    if skill is None:
        raise ToolError(f"there is no skill {name!r}: list_skills lists them")
    if skill.errors:
        raise ToolError(f"the skill {name!r} cannot be used: {one_line('; '.join(skill.errors), MAX_ERROR)}")
    if skill.hidden:
        raise ToolError(f"the skill {name!r} is for people only: its author has disabled that models use it")
    began = millis_of(context.turn_id) * 1000
    active = await activate(services, context, context.session_id, skill, began)
    return ToolOutcome(_told(active), active.written)


def _told(active: ActiveSkill) -> str:
    skill = active.skill
    lines = [f"The skill {skill.name}:"]
    if active.count:
        shown, room = [], MAX_LIST
        for path in active.files[:MAX_LISTED]:
            room -= len(path)
            if room < 0:
                break
            shown.append(f"- {path}")
        more = active.count - len(shown)
        lines = [
            f"The skill {skill.name}, in the folder {skill.folder}. Its further files:",
            *shown,
            *([f"- and {more} more: see list_directory"] if more else []),
            "Read them with the file tools when the text below refers to them. Scripts run only in the",
            f"session's shell, where the folder is {MOUNT}{skill.folder}.",
        ]
    return "\n".join([*lines, "", active.text.strip()])
