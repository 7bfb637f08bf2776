"""Where state is kept: Postgres (`database`), bytes named by their digest (`objects`)."""
