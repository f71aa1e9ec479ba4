"""What gexec does with each option of ssh_config(5), and why: the table that test_ssh_config.py walks.

SET: gexec.ssh.settings sets it on the command line. LEFT: the user's configuration decides.
"""

from __future__ import annotations

from typing import NamedTuple

from .sshd import NETWORK

SET, LEFT = "set", "left"


class Row(NamedTuple):
    """An option. ``contrary`` is a value that a user may have; of a SET one it must not have its effect."""

    name: str
    what: str
    why: str
    contrary: str = ""


_FORWARD = "ClearAllForwardings=yes removes it: one port here cannot serve all nodes"
_CRYPTO = "what both sides agree on is the site's policy"
_KEYS = "which keys and agents to use is the user's decision"
_HOSTKEYS = "whom to trust is the user's decision; in batch mode nothing is asked"
_LOGIN = "how to log in is the user's decision; in batch mode nothing is asked"
_NAMES = "what a name means and how to get there is the user's decision"
_NO_EFFECT = "has no effect without what is set above"
_X11 = "has no effect, as ForwardX11=no is set"

TABLE = [
    # -- the command, its streams and its process
    Row("RemoteCommand", SET, "the command is the job's", "echo other"),
    Row("RequestTTY", SET, "a terminal changes bytes and merges both streams", "force"),
    Row("SessionType", SET, "none runs nothing, subsystem something else", "none"),
    Row("StdinNull", SET, "stdin carries the start order and the command's data", "yes"),
    Row("ForkAfterAuthentication", SET, "the process that ends is the job's", "yes"),
    Row("LogLevel", SET, "messages go where the command's stderr does", "DEBUG"),
    Row("LogVerbose", SET, "it logs whatever LogLevel is", "*:*:*"),
    Row("EscapeChar", LEFT, "ssh looks for it on terminals only", "x"),
    Row("EnableEscapeCommandline", LEFT, "part of EscapeChar", "yes"),
    Row("SyslogFacility", LEFT, "has no effect without -y"),
    Row("VisualHostKey", LEFT, "LogLevel=ERROR hides it", "yes"),
    # -- what else a connection does
    Row("ClearAllForwardings", SET, "of all connections only one could listen at a port here", "no"),
    Row("LocalForward", LEFT, _FORWARD),
    Row("RemoteForward", LEFT, _FORWARD),
    Row("DynamicForward", LEFT, _FORWARD),
    Row("Tunnel", LEFT, _FORWARD),
    Row("TunnelDevice", LEFT, _FORWARD),
    Row("ExitOnForwardFailure", LEFT, _NO_EFFECT, "yes"),
    Row("GatewayPorts", LEFT, _NO_EFFECT, "yes"),
    Row("PermitRemoteOpen", LEFT, _NO_EFFECT),
    Row("StreamLocalBindMask", LEFT, _NO_EFFECT),
    Row("StreamLocalBindUnlink", LEFT, _NO_EFFECT, "yes"),
    Row("ForwardX11", SET, "a display for every node; each login would call xauth", "yes"),
    Row("ForwardX11Timeout", LEFT, _X11, "60"),
    Row("ForwardX11Trusted", LEFT, _X11, "yes"),
    Row("XAuthLocation", LEFT, _X11),
    Row("ForwardAgent", LEFT, "commands may need it; whom to trust with it is the user's decision", "yes"),
    Row("PermitLocalCommand", SET, "the local command would run here once for every node", "yes"),
    Row("LocalCommand", LEFT, "has no effect, as PermitLocalCommand=no is set", "false"),
    Row("ControlMaster", SET, "a connection that others share outlives the job or ends with it", "auto"),
    Row("ControlPath", LEFT, "a master that the user has opened is used: it may have asked for a token"),
    Row("ControlPersist", LEFT, "has no effect, as ControlMaster=no is set", "60"),
    Row("SendEnv", LEFT, "the node's sshd takes it or not; GEXEC_* are set afterwards", "LANG LC_*"),
    Row("SetEnv", LEFT, "the node's sshd takes it or not; GEXEC_* are set afterwards", "GEXEC_NODE=wrong"),
    # -- time
    Row("ConnectTimeout", SET, "--connect-timeout", "1000"),
    Row("ConnectionAttempts", SET, "--retries tries again; --connect-timeout is for all", "1000"),
    Row("ServerAliveInterval", SET, "a node that is silent is lost, as with gexecd", "0"),
    Row("ServerAliveCountMax", SET, "a node that is silent is lost, as with gexecd", "1000"),
    Row("TCPKeepAlive", LEFT, "ServerAliveInterval is set", "no"),
    Row("IPQoS", LEFT, "networks' policy", "none"),
    Row("Compression", LEFT, "pays on slow networks only: the user's decision", "yes"),
    Row("RekeyLimit", LEFT, _CRYPTO, "default 1h"),
    # -- questions
    Row("BatchMode", SET, "ssh never asks; with --ask it may", "no"),
    Row("AddKeysToAgent", SET, "ask opens a window for every node; with --ask as configured", "ask"),
    Row("NumberOfPasswordPrompts", LEFT, "there are none, or with --ask as configured", "7"),
    Row("UpdateHostKeys", SET, "many at once would rewrite one known_hosts", "yes"),
    # -- names and ways
    *(Row(name, LEFT, _NAMES, contrary) for name, contrary in {
        "Host": "", "Match": "", "Include": "", "IgnoreUnknown": "UseKeychain", "Tag": "",
        "HostName": "", "User": "", "Port": "", "AddressFamily": "inet", "BindAddress": f"{NETWORK}.1",
        "BindInterface": "lo", "CanonicalDomains": "example.invalid", "CanonicalizeFallbackLocal": "yes",
        "CanonicalizeHostname": "yes", "CanonicalizeMaxDots": "0", "CanonicalizePermittedCNAMEs": "",
        "ProxyCommand": "", "ProxyJump": "", "ProxyUseFdpass": "no",
    }.items()),
    # -- keys and logging in
    *(Row(name, LEFT, _KEYS) for name in (
        "CertificateFile", "IdentitiesOnly", "IdentityAgent", "IdentityFile", "PKCS11Provider",
        "SecurityKeyProvider",
    )),
    *(Row(name, LEFT, _LOGIN, contrary) for name, contrary in {
        "EnableSSHKeysign": "", "GSSAPIAuthentication": "yes", "GSSAPIDelegateCredentials": "yes",
        "HostbasedAuthentication": "yes", "KbdInteractiveAuthentication": "yes", "KbdInteractiveDevices": "",
        "PasswordAuthentication": "yes", "PubkeyAuthentication": "yes",
        "PreferredAuthentications": "keyboard-interactive,password,publickey",
    }.items()),
    *(Row(name, LEFT, _HOSTKEYS, contrary) for name, contrary in {
        "CheckHostIP": "yes", "FingerprintHash": "md5", "GlobalKnownHostsFile": "", "HashKnownHosts": "yes",
        "HostKeyAlias": "", "KnownHostsCommand": "/bin/true", "NoHostAuthenticationForLocalhost": "yes",
        "RevokedHostKeys": "", "StrictHostKeyChecking": "ask", "UserKnownHostsFile": "",
        "VerifyHostKeyDNS": "ask",
    }.items()),
    *(Row(name, LEFT, _CRYPTO) for name in (
        "CASignatureAlgorithms", "Ciphers", "HostKeyAlgorithms", "HostbasedAcceptedAlgorithms",
        "KexAlgorithms", "MACs", "PubkeyAcceptedAlgorithms", "RequiredRSASize",
    )),
    # -- of OpenSSH after 9.2, which the tests' own may not have
    Row("ChannelTimeout", LEFT, "a session that the user wants to end when it is silent ends so"),
    Row("ObscureKeystrokeTiming", LEFT, "on terminals only"),
    Row("RefuseConnection", LEFT, _NAMES),
    Row("VersionAddendum", LEFT, _NAMES),
    Row("WarnWeakCrypto", LEFT, "LogLevel=ERROR hides it"),
]  # fmt: skip

#: Names of the same options in older versions, and of vendors' patches (GSSAPI key exchange): all LEFT.
OTHER_NAMES = {
    "challengeresponseauthentication", "gssapiclientidentity", "gssapikexalgorithms", "gssapikeyexchange",
    "gssapirenewalforcesrekey", "gssapiserveridentity", "gssapitrustdns", "hostbasedkeytypes",
    "pubkeyacceptedkeytypes", "protocolkeepalives", "setupmessage",
}  # fmt: skip
