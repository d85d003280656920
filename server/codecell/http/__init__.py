"""MCP over Streamable HTTP and SSE: our own serving around the SDK's transports."""
