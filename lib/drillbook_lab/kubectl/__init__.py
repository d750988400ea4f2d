"""What only kubectl asks of the API server: tables, protobuf, OpenAPI, SPDY."""
