"""What a project remembers between processes: documents, tables and locks behind one interface.

`embedded` keeps them in files, for the processes of one machine; `postgresql` in a database that several
machines share. `open_state` chooses by the URL.
"""
