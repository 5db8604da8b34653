"""The server behind `ffruntime serve`: a page and an API, of Starlette and uvicorn (extra `serve`)."""
