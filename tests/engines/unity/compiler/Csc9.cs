// A C# 9 compiler on Roslyn: dotnet csc9.dll -out:FILE [-exe] [-r:REFERENCE]... [-d:A;B] SOURCE...
// Several assemblies, separated by `--`, are compiled in order: the compiler's start takes longest.
// Every warning is an error. Returns 0, or 1 with the diagnostics on standard error.

using System;
using System.Collections.Generic;
using System.IO;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

internal static class Csc9
{
    private static int Main(string[] arguments)
    {
        for (int start = 0; start < arguments.Length; )
        {
            int end = Array.IndexOf(arguments, "--", start);
            if (end < 0) end = arguments.Length;
            var assembly = new ArraySegment<string>(arguments, start, end - start);
            if (!Compile(assembly)) return 1;
            start = end + 1;
        }
        return 0;
    }

    private static bool Compile(ArraySegment<string> arguments)
    {
        string output = null;
        var symbols = new string[0];
        var kind = OutputKind.DynamicallyLinkedLibrary;
        var references = new List<MetadataReference>();
        var sources = new List<string>();
        foreach (string argument in arguments)
        {
            if (argument.StartsWith("-out:")) output = argument.Substring(5);
            else if (argument.StartsWith("-r:"))
                references.Add(MetadataReference.CreateFromFile(argument.Substring(3)));
            else if (argument.StartsWith("-d:")) symbols = argument.Substring(3).Split(';');
            else if (argument == "-exe") kind = OutputKind.ConsoleApplication;
            else sources.Add(argument);
        }
        var parse = new CSharpParseOptions(LanguageVersion.CSharp9, preprocessorSymbols: symbols);
        var trees = new List<SyntaxTree>();
        foreach (string source in sources)
            trees.Add(CSharpSyntaxTree.ParseText(File.ReadAllText(source), parse, source));
        var options = new CSharpCompilationOptions(
            kind,
            optimizationLevel: OptimizationLevel.Release,
            generalDiagnosticOption: ReportDiagnostic.Error
        ).WithSpecificDiagnosticOptions(
            new Dictionary<string, ReportDiagnostic>
            {
                ["CS0649"] = ReportDiagnostic.Suppress, // Unity assigns serialized fields
                ["CS1701"] = ReportDiagnostic.Suppress, // references to other versions of .NET
            }
        );
        string name = Path.GetFileNameWithoutExtension(output);
        var result = CSharpCompilation.Create(name, trees, references, options).Emit(output);
        foreach (Diagnostic diagnostic in result.Diagnostics)
            if (diagnostic.Severity >= DiagnosticSeverity.Warning)
                Console.Error.WriteLine(diagnostic);
        if (!result.Success) File.Delete(output);
        return result.Success;
    }
}
