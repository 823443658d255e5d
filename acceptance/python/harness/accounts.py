"""Accounts, made as an operator makes them: by `kjob-server user`."""

import os
import subprocess

PASSWORD = "correct horse"


def user(users_file, *arguments, stdin=""):
    """Runs `kjob-server user` and returns what it prints."""
    command = [os.environ["KJOB_SERVER_BIN"], "user", *arguments, "--users-file", str(users_file)]
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add(users_file, name, role="user"):
    user(users_file, "add", name, "--role", role, "--password-stdin", stdin=PASSWORD)


def token(users_file, name, called):
    return user(users_file, "token", name, called).strip()
