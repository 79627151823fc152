"""One self-contained HTML page from runs, bundles and profile records."""
