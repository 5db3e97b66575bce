"""Who may call what: the access list and its file, the table of methods and roles, and the audit log.

``entries`` (what one line of the file says), ``access_file`` (reading and changing the file), ``access`` (who a call's
credentials belong to), ``table`` (which role a method needs), ``interceptor`` (what runs around every call),
``ownership`` (what depends on whose job it is), ``audit_log`` (what was done and refused), and ``guards`` (all of it
as a server's settings name it).
"""
