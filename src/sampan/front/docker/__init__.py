"""The Docker Engine API: routes decode a request, call one service of the engine, encode its answer."""
