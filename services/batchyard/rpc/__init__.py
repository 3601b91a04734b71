"""What every service needs to serve and to call: channels, servers, errors, identity."""
