"""A real RTSP server on 127.0.0.1 that plays an H.264 file over and over; run by Debian's own python3.

python3 rtsp_server.py PORT CLIP.h264 [USER:PASSWORD [digest]]     # rtsp://127.0.0.1:PORT/clip
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - after the versions

LAUNCH = (
    "( multifilesrc loop=true location={clip} ! h264parse "
    "! video/x-h264,framerate=10/1,stream-format=byte-stream,alignment=au "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def main(port: str, clip: str, login: str = "", method: str = "basic") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(LAUNCH.format(clip=clip))
    factory.set_shared(True)
    if login:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("viewer", "media.factory.access", True)
        permissions.add_permission_for_role("viewer", "media.factory.construct", True)
        factory.set_permissions(permissions)
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth = GstRtspServer.RTSPAuth()
        user, _, password = login.partition(":")
        if method == "digest":
            auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
            auth.add_digest(user, password, token)
        else:
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
        server.set_auth(auth)
    server.get_mount_points().add_factory("/clip", factory)
    if not server.attach(None):
        raise SystemExit(f"cannot listen on port {port}")
    GLib.MainLoop().run()


main(*sys.argv[1:])
