"""A server with the tools, resources and prompts that the official conformance suite asks for.

It exists for the suite alone. What the suite judges with it is ours: the same application builder,
gate and connection handling as `codecell serve`, around fixtures instead of programs.

    python tests/conformance/everything.py     # prints its address
"""

import json
import socket
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import uvicorn
from mcp import MCPDeprecationWarning, MCPError
from mcp.server import CacheHint, Server, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    ImageContent,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListRootsRequest,
    ListToolsResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SamplingCapability,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    Tool,
    UnsubscribeRequestParams,
)

from codecell.http.app import build_app
from codecell.http.connection import protocol
from codecell.settings import Settings

Context = ServerRequestContext[Any]
Answer = CallToolResult | InputRequiredResult
Handler = Callable[[Context, CallToolRequestParams], Awaitable[Answer]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS: dict[str, tuple[Tool, Handler]] = {}


def tool(description: str, **properties: dict[str, Any]) -> Callable[[Handler], Handler]:
    """Offer a function as the tool of its name; its properties are required strings."""

    def register(handler: Handler) -> Handler:
        name = handler.__name__
        schema = NOTHING | {"properties": properties, "required": list(properties)}
        TOOLS[name] = (Tool(name=name, description=description, input_schema=schema), handler)
        return handler

    return register


def answer(*blocks: ContentBlock | str, failed: bool = False) -> CallToolResult:
    content = [TextContent(type="text", text=b) if isinstance(b, str) else b for b in blocks]
    return CallToolResult(content=content, is_error=failed)


def text_resource(uri: str, text: str, mime: str = "text/plain") -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=mime, text=text)
    return EmbeddedResource(type="resource", resource=contents)


IMAGE = ImageContent(type="image", data=PNG, mime_type="image/png")


# --- what a tool may return ---


@tool("Returns text")
async def test_simple_text(_: Context, __: CallToolRequestParams) -> Answer:
    return answer("This is a simple text response for testing.")


@tool("Returns an image")
async def test_image_content(_: Context, __: CallToolRequestParams) -> Answer:
    return answer(IMAGE)


@tool("Returns sound")
async def test_audio_content(_: Context, __: CallToolRequestParams) -> Answer:
    return answer(AudioContent(type="audio", data=WAV, mime_type="audio/wav"))


@tool("Returns a resource")
async def test_embedded_resource(_: Context, __: CallToolRequestParams) -> Answer:
    return answer(
        text_resource("test://embedded-resource", "This is an embedded resource content.")
    )


@tool("Returns text, an image and a resource")
async def test_multiple_content_types(_: Context, __: CallToolRequestParams) -> Answer:
    data = text_resource("test://mixed", '{"test": "data", "value": 123}', "application/json")
    return answer("Multiple content types test:", IMAGE, data)


@tool("Fails")
async def test_error_handling(_: Context, __: CallToolRequestParams) -> Answer:
    return answer("This tool intentionally returns an error for testing", failed=True)


# --- what happens while it runs ---


@tool("Reports progress")
async def test_tool_with_progress(context: Context, _: CallToolRequestParams) -> Answer:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(0.05)
    return answer("Progress was reported.")


@tool("Logs")
async def test_tool_with_logging(context: Context, _: CallToolRequestParams) -> Answer:
    for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.session.send_log_message("info", line, related_request_id=context.request_id)
        await anyio.sleep(0.05)
    return answer("It was logged.")


@tool("Logs, where the request asks for it")
async def test_logging_tool(context: Context, params: CallToolRequestParams) -> Answer:
    return await test_tool_with_logging(context, params)


# --- asking the client while the call is open (handshake era) ---


@tool("Asks the client's model", prompt={"type": "string"})
async def test_sampling(context: Context, params: CallToolRequestParams) -> Answer:
    prompt = str((params.arguments or {})["prompt"])
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    said = await context.session.create_message([message], max_tokens=100)
    text = said.content.text if isinstance(said.content, TextContent) else "(no text)"
    return answer(f"LLM response: {text}")


async def ask(context: Context, message: str, schema: dict[str, Any], *, required: bool) -> Answer:
    whole = {
        "type": "object",
        "properties": schema,
        **({"required": [*schema]} if required else {}),
    }
    said = await context.session.elicit_form(message, whole, context.request_id)
    content = json.dumps(said.content or {})
    return answer(f"Elicitation completed: action={said.action}, content={content}")


@tool("Asks the user", message={"type": "string"})
async def test_elicitation(context: Context, params: CallToolRequestParams) -> Answer:
    schema = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    return await ask(context, str((params.arguments or {})["message"]), schema, required=True)


@tool("Asks the user, with defaults")
async def test_elicitation_sep1034_defaults(context: Context, _: CallToolRequestParams) -> Answer:
    schema = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    }
    return await ask(context, "Who are you?", schema, required=False)


def choices(key: str) -> list[dict[str, str]]:
    return [{"const": f"value{n}", "title": f"{key} {n}"} for n in (1, 2, 3)]


@tool("Asks the user to choose")
async def test_elicitation_sep1330_enums(context: Context, _: CallToolRequestParams) -> Answer:
    options = ["option1", "option2", "option3"]
    schema = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": choices("Option")},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": choices("Choice")}},
    }
    return await ask(context, "Choose", schema, required=False)


# --- schemas that must arrive as they are ---

SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@tool("Tool with JSON Schema 2020-12 features")
async def json_schema_2020_12_tool(_: Context, __: CallToolRequestParams) -> Answer:
    return answer("Its schema is what matters.")


TOOLS["json_schema_2020_12_tool"][0].input_schema = SCHEMA_2020_12


@tool(
    "Has an argument that stands in a header too",
    region={"type": "string", "x-mcp-header": "Region"},
)
async def test_header_argument(_: Context, params: CallToolRequestParams) -> Answer:
    return answer(f"The region is {(params.arguments or {})['region']}.")


# --- asking the client by an answer that is not the last (2026-07-28) ---


def form(message: str, name: str, kind: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    params = ElicitRequestFormParams(message=message, requested_schema=schema)
    return ElicitRequest(method="elicitation/create", params=params)


def sample(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    params = CreateMessageRequestParams(messages=[message], max_tokens=100)
    return CreateMessageRequest(method="sampling/createMessage", params=params)


def filled(responses: dict[str, Any] | None, key: str, name: str) -> Any | None:
    """Return what the user filled in, or None where that is missing or not a form's answer."""
    given = (responses or {}).get(key)
    if not isinstance(given, ElicitResult) or given.action != "accept":
        return None
    return (given.content or {}).get(name)


@tool("Needs a name")
async def test_input_required_result_elicitation(
    _: Context, params: CallToolRequestParams
) -> Answer:
    name = filled(params.input_responses, "user_name", "name")
    if not isinstance(name, str):
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return answer(f"Hello, {name}!")


@tool("Needs the client's model")
async def test_input_required_result_sampling(_: Context, params: CallToolRequestParams) -> Answer:
    said = (params.input_responses or {}).get("capital_question")
    if said is None:
        question = sample("What is the capital of France?")
        return InputRequiredResult(input_requests={"capital_question": question})
    return answer(f"The model said: {said.model_dump_json()}")


@tool("Needs the client's roots")
async def test_input_required_result_list_roots(
    _: Context, params: CallToolRequestParams
) -> Answer:
    roots = (params.input_responses or {}).get("client_roots")
    if roots is None:
        return InputRequiredResult(
            input_requests={"client_roots": ListRootsRequest(method="roots/list")}
        )
    return answer(f"The roots are: {roots.model_dump_json()}")


@tool("Needs a confirmation, and remembers")
async def test_input_required_result_request_state(
    _: Context, params: CallToolRequestParams
) -> Answer:
    if params.request_state is None:
        return InputRequiredResult(
            input_requests={"confirm": form("Please confirm", "ok", "boolean")},
            request_state="asked",
        )
    if params.request_state != "asked":
        raise MCPError(INVALID_PARAMS, "requestState is not ours")
    return answer("state-ok")


@tool("Refuses a state that it did not make")
async def test_input_required_result_tampered_state(
    context: Context, params: CallToolRequestParams
) -> Answer:
    return await test_input_required_result_request_state(context, params)


@tool("Needs three things at once")
async def test_input_required_result_multiple_inputs(
    _: Context, params: CallToolRequestParams
) -> Answer:
    needed: dict[str, Any] = {
        "user_name": form("What is your name?", "name"),
        "greeting": sample("Generate a greeting"),
        "client_roots": ListRootsRequest(method="roots/list"),
    }
    if (
        params.request_state != "asked"
        or not needed.keys() <= (params.input_responses or {}).keys()
    ):
        return InputRequiredResult(input_requests=needed, request_state="asked")
    return answer("All three are here.")


@tool("Needs one thing after another")
async def test_input_required_result_multi_round(
    _: Context, params: CallToolRequestParams
) -> Answer:
    match params.request_state:
        case None:
            step = form("Step 1: What is your name?", "name")
            return InputRequiredResult(input_requests={"step1": step}, request_state="one")
        case "one":
            step = form("Step 2: What is your favorite color?", "color")
            return InputRequiredResult(input_requests={"step2": step}, request_state="two")
        case _:
            return answer("Both are here.")


@tool("Asks only for what the client can do")
async def test_input_required_result_capabilities(
    context: Context, _: CallToolRequestParams
) -> Answer:
    able = context.session.client_capabilities
    requests: dict[str, Any] = {}
    if able is not None and able.elicitation is not None:
        requests["name"] = form("What is your name?", "name")
    if able is not None and able.sampling is not None:
        requests["greeting"] = sample("Generate a greeting")
    return InputRequiredResult(input_requests=requests)


@tool("Needs a client that can sample")
async def test_missing_capability(context: Context, _: CallToolRequestParams) -> Answer:
    needed = ClientCapabilities(sampling=SamplingCapability())
    if not context.session.check_client_capability(needed):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "The client must be able to sample",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return answer("It can.")


@tool("Reports progress, then needs a name")
async def test_streaming_elicitation(context: Context, params: CallToolRequestParams) -> Answer:
    await context.session.report_progress(1, 2, "about to ask")
    return await test_input_required_result_elicitation(context, params)


# --- resources ---

TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "Watched resource content",
}
BINARY = "test://static-binary"


async def list_resources(_: Context, __: Any) -> ListResourcesResult:
    texts = [Resource(uri=uri, name=uri[7:], mime_type="text/plain") for uri in TEXTS]
    binary = Resource(uri=BINARY, name="static-binary", mime_type="image/png")
    return ListResourcesResult(resources=[*texts, binary])


async def list_templates(_: Context, __: Any) -> ListResourceTemplatesResult:
    template = ResourceTemplate(
        uri_template="test://template/{id}/data", name="template", mime_type="application/json"
    )
    return ListResourceTemplatesResult(resource_templates=[template])


async def read_resource(_: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri = str(params.uri)
    if uri in TEXTS:
        text = TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])
        return ReadResourceResult(contents=[text])
    if uri == BINARY:
        blob = BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
        return ReadResourceResult(contents=[blob])
    if uri.startswith("test://template/") and uri.endswith("/data"):
        name = uri.removeprefix("test://template/").removesuffix("/data")
        data = json.dumps({"id": name, "templateTest": True, "data": f"Data for ID: {name}"})
        made = TextResourceContents(uri=uri, mime_type="application/json", text=data)
        return ReadResourceResult(contents=[made])
    raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})


async def subscribe(_: Context, __: SubscribeRequestParams) -> EmptyResult:
    return EmptyResult()


async def unsubscribe(_: Context, __: UnsubscribeRequestParams) -> EmptyResult:
    return EmptyResult()


# --- prompts, completion, logging ---

PROMPTS = {
    "test_simple_prompt": [],
    "test_prompt_with_arguments": ["arg1", "arg2"],
    "test_prompt_with_embedded_resource": ["resourceUri"],
    "test_prompt_with_image": [],
    "test_input_required_result_prompt": [],
}


async def list_prompts(_: Context, __: Any) -> ListPromptsResult:
    return ListPromptsResult(
        prompts=[
            Prompt(
                name=name,
                description=name.replace("_", " "),
                arguments=[PromptArgument(name=argument, required=True) for argument in arguments],
            )
            for name, arguments in PROMPTS.items()
        ]
    )


async def get_prompt(
    _: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    given = params.arguments or {}
    blocks: list[ContentBlock | str]
    match params.name:
        case "test_simple_prompt":
            blocks = ["This is a simple prompt for testing."]
        case "test_prompt_with_arguments":
            blocks = [f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"]
        case "test_prompt_with_embedded_resource":
            resource = text_resource(given["resourceUri"], "Embedded resource content for testing.")
            blocks = [resource, "Please process the embedded resource above."]
        case "test_prompt_with_image":
            blocks = [IMAGE, "Please analyze the image above."]
        case "test_input_required_result_prompt":
            context = filled(params.input_responses, "user_context", "context")
            if context is None:
                question = form("What context should the prompt use?", "context")
                return InputRequiredResult(input_requests={"user_context": question})
            blocks = [f"Context: {context}"]
        case name:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {name}")
    content = [TextContent(type="text", text=b) if isinstance(b, str) else b for b in blocks]
    return GetPromptResult(messages=[PromptMessage(role="user", content=b) for b in content])


async def complete(_: Context, __: CompleteRequestParams) -> CompleteResult:
    return CompleteResult(completion=Completion(values=["paris", "park", "party"], total=3))


async def set_level(_: Context, __: SetLevelRequestParams) -> EmptyResult:
    return EmptyResult()


async def list_tools(_: Context, __: Any) -> ListToolsResult:
    return ListToolsResult(tools=[definition for definition, _ in TOOLS.values()])


async def call_tool(context: Context, params: CallToolRequestParams) -> Answer:
    if params.name not in TOOLS:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    return await TOOLS[params.name][1](context, params)


def everything() -> Server[Any]:
    """Make the server."""
    hint = CacheHint(ttl_ms=60_000, scope="public")
    cached = (
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)  # the suite asks for the old, too
        server = Server(
            "everything",
            version="1",
            cache_hints=dict.fromkeys(cached, hint),
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_subscribe_resource=subscribe,
            on_unsubscribe_resource=unsubscribe,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
            on_completion=complete,
            on_set_logging_level=set_level,
        )
    server.middleware.append(
        RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="everything")
    )
    return server


def main() -> None:
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    settings = Settings()
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        build_app(everything(), settings),
        http=protocol(settings.http),
        ws="none",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
