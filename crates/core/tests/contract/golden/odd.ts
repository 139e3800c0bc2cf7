// Types of contract odd.things version 12, written by posthaste.

export type OddHostileV12Forest = OddHostileV12Node[];

/** A tree. */
export interface OddHostileV12Node {
  children: OddHostileV12Node[];
  forest?: OddHostileV12Forest;
  parent?: OddHostileV12Node;
}

export interface OddHostileV12InnerDeep {
  x?: null;
}

/** Stands in another. */
export interface OddHostileV12Inner {
  deep: OddHostileV12InnerDeep;
}

export interface OddHostileV12Merged {
  a: string;
  b: string;
}

export interface OddHostileV12SometimesObject {
  y?: string;
}

/**
 * ends here * / export const broken = 1; /*
 * second line
 * third """ ''' `${x}` \ line
 * # -*- coding: latin-1 -*-
 * //go:build ignore
 */
export interface OddHostileV12 {
  "-"?: boolean;
  __mangled?: boolean;
  "a \"quoted\\ name": boolean;
  /** Not expressed: the schema names no type. */
  anything?: unknown;
  bag?: { [name: string]: unknown };
  choice?: string | OddHostileV12Node | number;
  class: number;
  fixed?: unknown /* a fixed value */;
  half?: 0.5;
  /** * / } type Broken = 1 /* */
  id: string;
  /** Stands in another. */
  inner?: OddHostileV12Inner;
  "line\nbreak`\u202e"?: boolean;
  map?: { [name: string]: number };
  maybe: string | null;
  merged?: OddHostileV12Merged;
  "min-regions"?: number;
  min_regions?: number;
  mixed?: "a" | 1 | null | true;
  /** The first one. */
  node?: OddHostileV12Node;
  "nullable list"?: null | string[];
  /** Not expressed: items that differ by their place. */
  pair?: unknown[];
  sometimes?: OddHostileV12SometimesObject | string;
  state?: "open" | "closed\"; drop" | "x\ny" | "`tick`" | "*/";
  tags: ("a" | "b")[];
  "日本"?: string;
}
