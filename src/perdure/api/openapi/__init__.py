"""The OpenAPI document and the HTML pages made from it."""
