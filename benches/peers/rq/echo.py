"""What jobs call."""


def echo(message):
    return message
