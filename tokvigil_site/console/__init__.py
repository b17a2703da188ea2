"""The console: Django's admin as a place of work. The site, its navigation, and the pages that cross apps.

The pages of policies, keys and all else are in the `admin` packages of their apps; what they share is in
`tenants/console`. How it is built: docs/console.md.
"""
