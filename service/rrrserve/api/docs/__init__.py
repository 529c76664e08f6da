"""The document of the routes: the models of answers, OpenAPI from them, and Swagger UI that shows it."""
