"""Gates: what comes from elsewhere passes here before it is opened (docs/security.md names all of them).

`sources` for every download, `foreign_code` for every model's folder, `templates` for chat templates. URLs have their
gate in `system.urls`, visitors of a served chat in `chat.access`.
"""
