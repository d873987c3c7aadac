"""Renders one scene of the gallery; runs inside Blender, started by make_gallery.py.

    blender --background --factory-startup --python photos/render.py -- SCENE TEXTURES OUTPUT SAMPLES

Everything is modelled here, in centimetres: the camera looks along +Y, Z is up. A hand is a set of
tapered capsules, one per finger bone, fused and smoothed.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import bmesh
import bpy
from mathutils import Euler, Matrix, Vector

WIDTH, HEIGHT = 960, 720


# --- materials --------------------------------------------------------------------------------------


def material(name, color, *, rough=0.5, metal=0.0, bump=0.0, bump_scale=40.0, image=None, glow=0.0):
    """Return a principled material, optionally with an image, a noise bump and a glow."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    nodes, links = made.node_tree.nodes, made.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*color, 1)
    shader.inputs["Roughness"].default_value = rough
    shader.inputs["Metallic"].default_value = metal
    if image:
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = bpy.data.images.load(str(image))
        links.new(picture.outputs["Color"], shader.inputs["Base Color"])
        if glow:
            links.new(picture.outputs["Color"], shader.inputs["Emission"])
            shader.inputs["Emission Strength"].default_value = glow
    if bump:
        noise, bumper = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeBump")
        place = nodes.new("ShaderNodeTexCoord")
        noise.inputs["Scale"].default_value = bump_scale
        noise.inputs["Detail"].default_value = 6
        bumper.inputs["Strength"].default_value = bump
        bumper.inputs["Distance"].default_value = 0.1
        links.new(place.outputs["Object"], noise.inputs["Vector"])
        links.new(noise.outputs["Fac"], bumper.inputs["Height"])
        links.new(bumper.outputs["Normal"], shader.inputs["Normal"])
    return made


def wood(name, dark, light, scale):
    """Return a procedural wood."""
    made = material(name, light, rough=0.45)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    place, stretch = nodes.new("ShaderNodeTexCoord"), nodes.new("ShaderNodeMapping")
    stretch.inputs["Scale"].default_value = (scale, scale * 9, scale)
    noise, ramp = nodes.new("ShaderNodeTexNoise"), nodes.new("ShaderNodeValToRGB")
    noise.inputs["Scale"].default_value = 1.0
    noise.inputs["Detail"].default_value = 9
    noise.inputs["Distortion"].default_value = 1.2
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*dark, 1), (*light, 1)
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.35, 0.65
    links.new(place.outputs["Object"], stretch.inputs["Vector"])
    links.new(stretch.outputs["Vector"], noise.inputs["Vector"])
    links.new(noise.outputs["Fac"], ramp.inputs["Fac"])
    links.new(ramp.outputs["Color"], nodes["Principled BSDF"].inputs["Base Color"])
    return made


# --- shapes -----------------------------------------------------------------------------------------


def add(name, mesh_or_bmesh, made, *, bevel=0.0, smooth=True):
    """Put a mesh into the scene."""
    mesh = mesh_or_bmesh
    if isinstance(mesh, bmesh.types.BMesh):
        mesh = bpy.data.meshes.new(name)
        mesh_or_bmesh.to_mesh(mesh)
        mesh_or_bmesh.free()
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.collection.objects.link(thing)
    thing.data.materials.append(made)
    if bevel:
        modifier = thing.modifiers.new("bevel", "BEVEL")
        modifier.width, modifier.segments, modifier.limit_method = bevel, 4, "ANGLE"
    if smooth:
        for polygon in mesh.polygons:
            polygon.use_smooth = True
        mesh.use_auto_smooth = True
        mesh.auto_smooth_angle = math.radians(40)
    return thing


def box(name, low, high, made, bevel=0.1):
    """Add a box between two corners."""
    bm = bmesh.new()
    bmesh.ops.create_cube(bm, size=1)
    low, high = Vector(low), Vector(high)
    for vertex in bm.verts:
        vertex.co = (low + high) / 2 + Vector(v * s for v, s in zip(vertex.co, high - low))
    return add(name, bm, made, bevel=bevel)


def prism(name, outline, thickness, made, bevel=0.1):
    """Add an outline of (x, z) points, extruded along Y around 0."""
    bm = bmesh.new()
    front = [bm.verts.new((x, -thickness / 2, z)) for x, z in outline]
    face = bm.faces.new(front)
    moved = bmesh.ops.extrude_face_region(bm, geom=[face])["geom"]
    bmesh.ops.translate(
        bm, vec=(0, thickness, 0), verts=[g for g in moved if isinstance(g, bmesh.types.BMVert)]
    )
    bmesh.ops.recalc_face_normals(bm, faces=bm.faces)
    return add(name, bm, made, bevel=bevel)


def tube(name, points, radius, made):
    """Add a round bar through points."""
    curve = bpy.data.curves.new(name, "CURVE")
    curve.dimensions, curve.bevel_depth, curve.bevel_resolution, curve.use_fill_caps = "3D", radius, 6, True
    line = curve.splines.new("BEZIER")
    line.bezier_points.add(len(points) - 1)
    for bezier, point in zip(line.bezier_points, points):
        bezier.co = point
        bezier.handle_left_type = bezier.handle_right_type = "AUTO"
    thing = bpy.data.objects.new(name, curve)
    bpy.context.collection.objects.link(thing)
    curve.materials.append(made)
    return thing


def cylinder(name, center, radius, depth, made, axis="X"):
    """Add a cylinder along an axis."""
    turn = {"X": Euler((0, math.pi / 2, 0)), "Y": Euler((math.pi / 2, 0, 0)), "Z": Euler((0, 0, 0))}[axis]
    bm = bmesh.new()
    bmesh.ops.create_cone(bm, cap_ends=True, segments=48, radius1=radius, radius2=radius, depth=depth)
    bmesh.ops.rotate(bm, cent=(0, 0, 0), matrix=turn.to_matrix(), verts=bm.verts)
    bmesh.ops.translate(bm, vec=center, verts=bm.verts)
    return add(name, bm, made, bevel=min(radius, depth) * 0.08)


def sheet(name, width, height, made, *, bend=0.0, ripple=0.0, depth=0.02):
    """Add a thin upright sheet, its picture towards the camera, bent like paper."""
    bm = bmesh.new()
    columns, rows = 40, 20
    grid = [
        [
            bm.verts.new(_sheet_point(i / columns, j / rows, width, height, bend, ripple))
            for i in range(columns + 1)
        ]
        for j in range(rows + 1)
    ]
    layer = bm.loops.layers.uv.new()
    for j in range(rows):
        for i in range(columns):
            corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            face = bm.faces.new([grid[y][x] for x, y in corners])
            for loop, (x, y) in zip(face.loops, corners):
                loop[layer].uv = (x / columns, y / rows)
    thing = add(name, bm, made)
    thickness = thing.modifiers.new("thickness", "SOLIDIFY")
    thickness.thickness, thickness.offset = depth, 0
    return thing


def _sheet_point(u, v, width, height, bend, ripple):
    x, z = (u - 0.5) * width, (v - 0.5) * height
    return x, bend * (u - 0.5) ** 2 * width + ripple * math.sin(9 * u + 3 * v), z


def rounded(name, width, height, depth, radius, made):
    """Add an upright slab with round corners."""
    outline = []
    for cx, cz, start in ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270)):
        for step in range(9):
            angle = math.radians(start + step * 90 / 8)
            outline.append(
                (
                    cx * (width / 2 - radius) + radius * math.cos(angle),
                    cz * (height / 2 - radius) + radius * math.sin(angle),
                )
            )
    return prism(name, outline, depth, made, bevel=min(depth * 0.35, 0.25))


def group(name, things, *, at=(0, 0, 0), turn=(0, 0, 0), scale=1.0):
    """Move things together."""
    parent = bpy.data.objects.new(name, None)
    bpy.context.collection.objects.link(parent)
    for thing in things:
        if thing.parent is None:
            thing.parent = parent
    parent.location, parent.scale = at, (scale,) * 3
    parent.rotation_euler = [math.radians(a) for a in turn]
    return parent


# --- the hand ---------------------------------------------------------------------------------------


def hand(chains, skin_color):
    """Fuse chains of (point, radius) pairs, one per finger, into one smooth skin."""
    skin = material("skin", skin_color, rough=0.5, bump=0.2, bump_scale=9)
    bm = bmesh.new()
    for chain in chains:
        for (start, r1), (end, r2) in zip(chain, chain[1:]):
            _capsule(bm, Vector(start), r1, Vector(end), r2)
    thing = add("hand", bm, skin)
    remesh = thing.modifiers.new("fuse", "REMESH")
    remesh.mode, remesh.voxel_size, remesh.use_smooth_shade = "VOXEL", 0.13, True
    soft = thing.modifiers.new("soften", "SMOOTH")
    soft.factor, soft.iterations = 0.6, 9
    return thing


def _capsule(bm, start, r1, end, r2):
    part = bmesh.new()
    for center, radius in ((start, r1), (end, r2)):
        made = bmesh.ops.create_icosphere(part, subdivisions=3, radius=radius)["verts"]
        bmesh.ops.translate(part, vec=center, verts=made)
    hull = bmesh.ops.convex_hull(part, input=part.verts)
    bmesh.ops.delete(part, geom=[g for g in hull["geom_interior"] if isinstance(g, bmesh.types.BMVert)])
    mesh = bpy.data.meshes.new("part")
    part.to_mesh(mesh)
    part.free()
    bm.from_mesh(mesh)


def nail(at, normal, along, skin_color):
    """Add a finger nail."""
    color = tuple(min(1, c * 1.15 + 0.06) for c in skin_color)
    bm = bmesh.new()
    bmesh.ops.create_uvsphere(bm, u_segments=24, v_segments=12, radius=1)
    thing = add("nail", bm, material("nail", color, rough=0.25))
    normal, along = Vector(normal).normalized(), Vector(along).normalized()
    side = along.cross(normal).normalized()
    thing.matrix_world = Matrix((
        (*[along[0] * 0.55], side[0] * 0.42, normal[0] * 0.12, at[0]),
        (*[along[1] * 0.55], side[1] * 0.42, normal[1] * 0.12, at[1]),
        (*[along[2] * 0.55], side[2] * 0.42, normal[2] * 0.12, at[2]),
        (0, 0, 0, 1),
    ))  # fmt: skip
    return thing


def sleeve(start, end, made, radius=4.0):
    """Add a cuff and a sleeve from start to end."""
    bm = bmesh.new()
    _capsule(bm, Vector(start), radius, Vector(end), radius * 1.35)
    thing = add("sleeve", bm, made)
    wrinkle = thing.modifiers.new("dense", "REMESH")
    wrinkle.mode, wrinkle.voxel_size, wrinkle.use_smooth_shade = "VOXEL", 0.3, True
    folds = bpy.data.textures.new("folds", "CLOUDS")
    folds.noise_scale = 2.4
    push = thing.modifiers.new("folds", "DISPLACE")
    push.texture, push.strength = folds, 1.1
    return thing


def grip_hand(skin_color, cloth, *, trigger=True, dz=0.0):
    """A right hand closed around an upright handle at the origin, seen from the finger tips' side."""
    chains = []
    for z, r in ((1.1 + dz, 0.92), (-0.85 + dz, 0.9), (-2.65 + dz, 0.8)):
        chains.append(
            [
                ((3.6, 1.2, z + 0.2), r * 1.15),
                ((0.4, 2.5, z), r * 1.05),
                ((-2.9, 1.7, z - 0.1), r),
                ((-3.3, -0.9, z - 0.15), r * 0.95),
                ((-1.2, -2.15, z - 0.1), r * 0.88),
                ((0.3, -2.2, z), r * 0.8),
            ]
        )
    if trigger:
        chains.append(
            [
                ((3.6, 1.3, 2.9), 1.0),
                ((0, 2.0, 3.2), 0.95),
                ((-3.2, 1.6, 3.1), 0.85),
                ((-4.6, 0.5, 3.0), 0.75),
            ]
        )
    else:
        z = 3.05 + dz
        chains.append(
            [
                ((3.6, 1.2, z), 1.05),
                ((0.4, 2.4, z), 0.98),
                ((-2.9, 1.7, z), 0.92),
                ((-3.3, -0.9, z), 0.86),
                ((-1.2, -2.15, z), 0.8),
                ((0.2, -2.2, z), 0.74),
            ]
        )
    thumb = [
        ((4.6, -0.6, 0.6), 1.5),
        ((3.0, -1.9, 3.0), 1.15),
        ((0.6, -2.3, 4.3), 0.95),
        ((-1.5, -2.2, 4.7), 0.78),
    ]
    palm = [
        [((4.3, 0.5, 2.6), 1.7), ((4.6, 0.5, -2.2), 1.75)],
        [((4.6, 0.5, 2.4), 1.6), ((8.0, 1.2, -1.0), 2.3)],
        [((4.8, 0.4, -2.0), 1.7), ((8.0, 1.2, -1.0), 2.3)],
        [((8.0, 1.2, -1.0), 2.35), ((13, 2.2, -3.2), 2.7)],
    ]
    made = [hand([*chains, thumb, *palm], skin_color)]
    made.append(nail((-1.35, -2.95, 4.85), (-0.1, -1, 0.2), (-1, 0, 0.15), skin_color))
    made.append(sleeve((13.2, 2.2, -3.4), (30, 6, -11), cloth))
    return made


def pinch_hand(skin_color, cloth, *, reach=0.0):
    """A right hand holding a flat thing at the origin between thumb (in front) and fingers (behind)."""
    chains = [
        [
            ((6.4, 1.6, -1.6), 1.1),
            ((4.2, 2.6, 1.6), 0.98),
            ((1.4, 1.7, 2.2), 0.88),
            ((-0.4 - reach, 0.95, 1.4), 0.75),
        ],
        [
            ((6.9, 2.0, -2.9), 1.12),
            ((4.8, 3.3, 0.2), 1.0),
            ((1.6, 2.4, 0.7), 0.9),
            ((-0.6 - reach, 1.1, -0.2), 0.78),
        ],
        [
            ((7.2, 2.2, -4.3), 1.08),
            ((4.9, 3.5, -1.6), 0.96),
            ((1.6, 2.6, -1.1), 0.86),
            ((-0.5 - reach, 1.2, -1.9), 0.74),
        ],
        [
            ((7.2, 2.0, -5.6), 0.98),
            ((5.2, 3.0, -3.6), 0.85),
            ((2.4, 2.3, -2.9), 0.76),
            ((0.6 - reach, 1.2, -3.4), 0.66),
        ],
    ]
    thumb = [
        ((7.4, -0.6, -7.0), 1.5),
        ((5.2, -1.7, -4.0), 1.2),
        ((3.2, -1.6, -1.9), 1.0),
        ((1.6, -0.95, -0.7), 0.78),
    ]
    palm = [
        [((7.0, 1.6, -2.0), 1.5), ((8.8, 1.0, -7.6), 2.0)],
        [((7.6, 2.0, -5.4), 1.5), ((9.4, 1.2, -8.6), 2.1)],
        [((7.4, -0.4, -6.8), 1.6), ((9.2, 1.0, -9.0), 2.2)],
        [((9.2, 1.0, -8.8), 2.25), ((13, 2.0, -14), 2.6)],
    ]
    made = [hand([*chains, thumb, *palm], skin_color)]
    made.append(nail((1.75, -1.68, -0.62), (0.15, -1, 0.3), (-1, 0.35, 0.75), skin_color))
    made.append(sleeve((13.2, 2.0, -14.4), (22, 5, -30), cloth))
    return made


# --- things -----------------------------------------------------------------------------------------


def pistol():
    """A pistol in profile, muzzle to the left, its grip around the origin."""
    steel = material("steel", (0.035, 0.037, 0.042), rough=0.32, metal=0.85, bump=0.08, bump_scale=60)
    polymer = material("polymer", (0.018, 0.018, 0.02), rough=0.62, bump=0.5, bump_scale=90)
    slide = [(-15.2, 5.2), (-15.2, 7.5), (-14.6, 8.1), (3.6, 8.1), (4.4, 7.4), (4.4, 5.2)]
    frame = [
        (-13.6, 5.25),
        (-13.6, 4.1),
        (-6.6, 3.8),
        (-3.1, 3.6),
        (-2.4, 2.6),
        (-1.1, -5.6),
        (3.9, -5.6),
        (3.4, -1.0),
        (2.9, 2.6),
        (4.6, 4.2),
        (4.9, 5.25),
    ]
    parts = [prism("slide", slide, 2.7, steel, 0.18), prism("frame", frame, 2.5, polymer, 0.3)]
    parts.append(
        tube(
            "guard",
            [(-6.7, 0, 3.9), (-7.0, 0, 2.3), (-5.6, 0, 1.1), (-3.6, 0, 1.1), (-2.1, 0, 1.6)],
            0.3,
            polymer,
        )
    )
    parts.append(tube("trigger", [(-4.4, 0, 3.8), (-4.7, 0, 2.9), (-5.1, 0, 2.1)], 0.26, steel))
    parts.append(cylinder("barrel", (-15.2, 0, 6.7), 0.72, 0.6, steel))
    parts.append(cylinder("bore", (-15.4, 0, 6.7), 0.45, 0.5, material("bore", (0, 0, 0), rough=1)))
    parts.append(box("magazine", (-1.4, -1.15, -6.1), (4.1, 1.15, -5.5), steel, 0.15))
    parts.append(box("front sight", (-14.3, -0.2, 8.0), (-13.5, 0.2, 8.6), steel, 0.05))
    parts.append(box("rear sight", (2.4, -0.9, 8.0), (3.3, 0.9, 8.7), steel, 0.05))
    parts.append(
        box(
            "port",
            (-6.6, -1.37, 6.6),
            (-2.4, -0.9, 7.8),
            material("port", (0.25, 0.25, 0.26), rough=0.25, metal=1),
            0.05,
        )
    )
    parts += [
        box("serration", (x, -1.42, 5.5), (x + 0.16, 1.42, 7.9), steel, 0.04)
        for x in (0.4, 0.9, 1.4, 1.9, 2.4, 2.9)
    ]
    parts.append(box("catch", (-2.2, -1.5, 4.3), (0.2, -1.2, 4.8), steel, 0.08))
    return parts


def knife(blade_length=19.0):
    """A kitchen knife, blade up, its handle around the origin."""
    steel = material("blade", (0.62, 0.64, 0.66), rough=0.2, metal=1.0, bump=0.05, bump_scale=30)
    handle = material("handle", (0.05, 0.03, 0.022), rough=0.45, bump=0.15, bump_scale=14)
    bm = bmesh.new()
    steps, rings = 30, []
    for i in range(steps + 1):
        t = i / steps
        z = 5.6 + blade_length * t
        edge = -2.3 * (1 - max(0.0, (t - 0.55) / 0.45) ** 2.2) + 0.55
        spine = 1.1 - 0.45 * max(0.0, (t - 0.3) / 0.7) ** 2
        edge = min(edge, spine - 0.03)
        rings.append([bm.verts.new(p) for p in ((spine, -0.13, z), (spine, 0.13, z), (edge, 0.0, z))])
    for lower, upper in zip(rings, rings[1:]):
        for j in range(3):
            bm.faces.new((lower[j], lower[(j + 1) % 3], upper[(j + 1) % 3], upper[j]))
    bm.faces.new(rings[0])
    bm.faces.new(rings[-1])
    bmesh.ops.recalc_face_normals(bm, faces=bm.faces)
    parts = [add("blade", bm, steel)]
    shape = [
        (-1.25, 5.6),
        (1.15, 5.6),
        (1.3, 0.0),
        (1.2, -5.0),
        (0.6, -6.4),
        (-1.3, -6.2),
        (-1.5, -4.4),
        (-1.05, -1.0),
        (-1.3, 3.0),
    ]
    parts.append(prism("handle", shape, 1.9, handle, 0.45))
    parts.append(box("bolster", (-1.35, -0.75, 5.2), (1.2, 0.75, 6.0), steel, 0.15))
    parts += [cylinder("rivet", (0, -0.98, z), 0.32, 0.12, steel, "Y") for z in (-4.4, -0.2, 3.6)]
    return parts


def phone(textures):
    """A phone, its screen lit and towards the camera."""
    body = material("body", (0.02, 0.02, 0.025), rough=0.25, metal=0.6)
    screen = material("screen", (0, 0, 0), rough=0.08, image=textures / "screen.png", glow=0.55)
    front = sheet("screen", 6.7, 14.3, screen)
    front.location.y = -0.43
    return [
        rounded("phone", 7.3, 15.2, 0.8, 1.0, body),
        front,
        box("button", (3.6, -0.15, 2.2), (3.75, 0.15, 4.2), body, 0.05),
    ]


def wallet():
    """A folded leather wallet."""
    leather = material("leather", (0.16, 0.062, 0.028), rough=0.5, bump=0.9, bump_scale=22)
    thread = material("thread", (0.55, 0.36, 0.16), rough=0.8)
    parts = [rounded("front", 11.4, 9.2, 0.8, 0.7, leather), rounded("back", 11.4, 9.2, 0.8, 0.7, leather)]
    parts[0].location.y, parts[1].location.y = -0.45, 0.45
    parts.append(box("fold", (-5.85, -0.8, -4.3), (-5.3, 0.8, 4.3), leather, 0.35))
    for x0, x1, z0, z1 in ((-5, 5.2, 4.1, 4.1), (-5, 5.2, -4.1, -4.1), (5.25, 5.25, -4.1, 4.1)):
        count = int(max(abs(x1 - x0), abs(z1 - z0)) / 0.42)
        for i in range(count):
            x, z = x0 + (x1 - x0) * i / count, z0 + (z1 - z0) * i / count
            dx, dz = (0.26, 0.05) if x1 != x0 else (0.05, 0.26)
            parts.append(box("stitch", (x, -0.9, z), (x + dx, -0.83, z + dz), thread, 0.02))
    return parts


def banknotes(textures, count=3):
    """A fan of invented banknotes."""
    paper = material(
        "paper", (1, 1, 1), rough=0.75, bump=0.05, bump_scale=50, image=textures / "banknote.png"
    )
    notes = []
    for i in range(count):
        note = sheet(f"note {i}", 15.0, 7.2, paper, bend=0.10 + 0.03 * i, ripple=0.12)
        note.rotation_euler = (0, math.radians(-9 + 13 * i), 0)
        note.location = (-3.2 - 0.5 * i, -0.2 + 0.3 * i, 1.4 + 1.5 * i)
        notes.append(note)
    return notes


def card(textures):
    """An invented bank card."""
    plastic = material("plastic", (1, 1, 1), rough=0.28, image=textures / "card.png")
    return [sheet("card", 8.56, 5.4, plastic, depth=0.09)]


def mug(at):
    """A mug on the table."""
    glaze = material("glaze", (0.75, 0.72, 0.66), rough=0.15)
    cup = cylinder("mug", (0, 0, 4.6), 4.1, 9.2, glaze, "Z")
    drink = cylinder(
        "coffee", (0, 0, 9.15), 3.7, 0.2, material("coffee", (0.03, 0.012, 0.006), rough=0.1), "Z"
    )
    handle = tube("handle", [(3.8, 0, 7.6), (6.4, 0, 7.2), (6.6, 0, 3.6), (3.8, 0, 2.4)], 0.55, glaze)
    return group("mug", [cup, drink, handle], at=at, turn=(0, 0, -25))


# --- the stage --------------------------------------------------------------------------------------


def stage(
    textures, backdrop, *, distance=62.0, target=(0, 0, 1), height=4.0, blur=2.2, warm=0.0, tint=(1, 1, 1)
):
    """Set camera, lights and, far behind, a photograph out of focus."""
    made = material("backdrop", (0, 0, 0), rough=1)
    nodes, links = made.node_tree.nodes, made.node_tree.links
    picture, glow, mix = (
        nodes.new("ShaderNodeTexImage"),
        nodes.new("ShaderNodeEmission"),
        nodes.new("ShaderNodeMixRGB"),
    )
    picture.image = bpy.data.images.load(str(textures / backdrop))
    mix.blend_type = "MULTIPLY"
    mix.inputs["Fac"].default_value, mix.inputs["Color2"].default_value = 1, (*tint, 1)
    glow.inputs["Strength"].default_value = 0.9
    links.new(picture.outputs["Color"], mix.inputs["Color1"])
    links.new(mix.outputs["Color"], glow.inputs["Color"])
    links.new(glow.outputs["Emission"], nodes["Material Output"].inputs["Surface"])
    wall = sheet("backdrop", 190, 142, made)
    wall.location = (0, 95, 0)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    bpy.context.collection.objects.link(camera)
    camera.location = (target[0] + 2, -0.8 * distance if height < 30 else -distance, height)
    camera.rotation_euler = (Vector(target) - camera.location).to_track_quat("-Z", "Y").to_euler()
    camera.data.lens, camera.data.dof.use_dof = 50, True
    camera.data.dof.focus_distance = (camera.location - Vector(target)).length - 1.5
    camera.data.dof.aperture_fstop = 0.25 / blur  # the scene is in centimetres, the lens in millimetres
    bpy.context.scene.camera = camera
    light("key", (-38, -40, 46), 42000, 26, (1, 0.95 - 0.08 * warm, 0.9 - 0.2 * warm))
    light("fill", (48, -30, 10), 9000, 40, (0.85, 0.92, 1))
    light("rim", (10, 40, 45), 16000, 20, (1, 0.97, 0.93))
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.55, 0.6, 0.68, 1)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.35
    bpy.context.scene.world = world


def light(name, at, power, size, color):
    """Add a soft lamp that points at the origin."""
    lamp = bpy.data.lights.new(name, "AREA")
    lamp.energy, lamp.size, lamp.color = power, size, color
    thing = bpy.data.objects.new(name, lamp)
    bpy.context.collection.objects.link(thing)
    thing.location = at
    thing.rotation_euler = (-Vector(at)).to_track_quat("-Z", "Y").to_euler()


def table(made, z=0.0):
    """Add a table top."""
    return box("table", (-120, -60, z - 3), (120, 60, z), made, 0.3)


def lying(parts, at, turn):
    """Lay upright things flat on the table, their front side up."""
    inner = group("inner", parts, turn=(-90, 0, 0))
    return group("lying", [inner], at=at, turn=(0, 0, turn))


LIGHT, MEDIUM, DARK = (0.72, 0.46, 0.34), (0.5, 0.28, 0.18), (0.16, 0.08, 0.05)


def denim():
    """Blue cloth."""
    return material("denim", (0.05, 0.09, 0.18), rough=0.9, bump=0.6, bump_scale=30)


def wool(color=(0.12, 0.12, 0.13)):
    """Knitted cloth."""
    return material("wool", color, rough=0.95, bump=0.9, bump_scale=18)


def scene_pistol(textures):
    """A pistol aimed to the left."""
    group("pistol", [*pistol(), *grip_hand(LIGHT, wool())], at=(1, 0, -2), turn=(0, 6, -14))
    stage(textures, "brick.png", target=(0.5, 0, 0), tint=(0.9, 0.55, 0.42))


def scene_knife(textures):
    """A knife held upright."""
    group(
        "knife",
        [*knife(), *grip_hand(MEDIUM, denim(), trigger=False, dz=-0.4)],
        at=(0.5, 0, -6),
        turn=(4, -24, 8),
    )
    stage(textures, "brick.png", target=(-1, 0, 2), distance=70, tint=(0.16, 0.2, 0.3))


def scene_phone(textures):
    """A phone held up."""
    things = phone(textures)
    group("phone", things, at=(-1.6, 0, 4.0), turn=(0, -4, 0))
    group("hand", pinch_hand(DARK, wool((0.3, 0.08, 0.07)), reach=0.5), at=(1.2, 0, 0.2))
    stage(textures, "grass.png", target=(0.5, 0, 1), distance=72, tint=(0.5, 0.75, 0.35))


def scene_wallet(textures):
    """A wallet handed over."""
    group("wallet", wallet(), at=(-2.8, 0, 2.4), turn=(0, -8, 6))
    group("hand", pinch_hand(LIGHT, denim()), at=(1.5, -0.6, 0.8), turn=(0, 4, 0))
    stage(textures, "brick.png", target=(0.5, 0, 0), distance=66, tint=(0.95, 0.85, 0.65), warm=1)


def scene_banknotes(textures):
    """Banknotes in a hand."""
    group("money", banknotes(textures), at=(0, 0, 0.5), turn=(0, 0, 4))
    group("hand", pinch_hand(MEDIUM, wool((0.07, 0.1, 0.09))), at=(1.0, 0.0, 0.0))
    stage(textures, "brick.png", target=(0, 0, 0.5), distance=70, tint=(0.75, 0.72, 0.7))


def scene_card(textures):
    """A bank card held to the camera."""
    group("card", card(textures), at=(-2.4, 0, 1.2), turn=(0, -10, 5))
    group("hand", pinch_hand(LIGHT, wool((0.35, 0.33, 0.3))), at=(0.8, 0, 0.4))
    stage(textures, "coffee.png", target=(1, 0, -1), distance=56, tint=(0.7, 0.75, 0.9))


def scene_table(textures):
    """A pistol, a phone and a wallet on one table."""
    table(wood("oak", (0.17, 0.09, 0.04), (0.38, 0.22, 0.11), 0.08), 0)
    lying(pistol(), (-5, 1, 1.4), 24)
    lying(phone(textures), (13, -6, 0.45), -14)
    lying(wallet(), (12, 14, 0.9), 30)
    stage(textures, "coffee.png", target=(0, 2, 0), distance=54, height=54, blur=1.0)


def scene_kitchen(textures):
    """A knife, a card and a mug on a kitchen table."""
    table(wood("beech", (0.42, 0.27, 0.15), (0.62, 0.44, 0.28), 0.06), 0)
    lying(knife(), (0, -4, 1.0), 62)
    lying(card(textures), (13, -9, 0.1), 18)
    mug((11, 15, 0))
    stage(textures, "brick.png", target=(1, 3, 0), distance=46, height=44, blur=1.0, warm=1)


def scene_mug(textures):
    """A hand-less, weapon-less table: nothing to find."""
    table(wood("walnut", (0.09, 0.045, 0.02), (0.24, 0.13, 0.07), 0.07), -6)
    mug((0, 2, -6))
    stage(textures, "brick.png", target=(0, 0, -1), distance=60, height=16, tint=(0.8, 0.75, 0.7), warm=1)


def scene_street(textures):
    """A knife low in a hand, as a phone held sideways would take it."""
    group(
        "knife",
        [*knife(16), *grip_hand(DARK, wool((0.2, 0.2, 0.23)), trigger=False, dz=-0.4)],
        at=(0, 0, -3),
        turn=(0, -62, 4),
    )
    stage(textures, "grass.png", target=(-3, 0, 0), distance=80, tint=(0.42, 0.6, 0.35))


def main():
    """Render the scene named on the command line."""
    name, textures, output, samples = sys.argv[sys.argv.index("--") + 1 :]
    random.seed(0)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    globals()[f"scene_{name}"](Path(textures))
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.seed = int(samples), 1
    scene.cycles.use_denoising = False  # Debian builds Blender without a denoiser
    scene.cycles.max_bounces = 5
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.view_settings.view_transform, scene.view_settings.look = "Filmic", "Medium High Contrast"
    scene.render.filepath, scene.render.image_settings.file_format = str(Path(output)), "PNG"
    bpy.ops.render.render(write_still=True)


main()
